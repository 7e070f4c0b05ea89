//! An API server that does not take what is valid by itself: an admission policy of the cluster says so.

use std::fmt::Debug;

use headgate_bed::stage::{SOURCES, SYSTEM, event_sources};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    coordination::v1::Lease,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::world::World;

/// What was refused is refused until this is lifted.
pub(crate) struct Refusal {
    client: Client,
    name: String,
}

impl World {
    /// From now on no finalizer comes onto the object.
    pub(crate) async fn refuse_finalizers_of(&self, source: &str) -> Refusal {
        let rule = json!({
            "apiGroups": ["headgate.dev"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["eventsources"],
        });
        let one = format!("object.metadata.namespace == '{SOURCES}' && object.metadata.name == '{source}'");
        let refusal =
            self.refuse(format!("no-finalizer-on-{source}"), &rule, &one, "!has(object.metadata.finalizers)").await;
        // It counts from when the API server has heard of it.
        let attempt = PatchParams { dry_run: true, ..PatchParams::default() };
        let finalizer = Patch::Merge(json!({ "metadata": { "finalizers": ["example.com/attempt"] } }));
        let objects = event_sources(&self.stage.client);
        let refused = async || objects.patch(source, &attempt, &finalizer).await.is_err();
        self.until("a finalizer is refused", refused).await;
        refusal
    }

    /// From now on no replica joins, and no incarnation follows one that has ended.
    pub(crate) async fn refuse_joins(&self) -> Refusal {
        let rule = json!({
            "apiGroups": ["coordination.k8s.io"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["leases"],
        });
        let members = "object.metadata.name.startsWith('headgate-member-')";
        let refusal = self.refuse("no-member".to_owned(), &rule, members, "false").await;
        let attempt = PostParams { dry_run: true, ..PostParams::default() };
        let leases: Api<Lease> = Api::namespaced(self.stage.client.clone(), SYSTEM);
        let mut lease = Lease::default();
        lease.metadata.name = Some("headgate-member-attempt".to_owned());
        let refused = async || leases.create(&attempt, &lease).await.is_err();
        self.until("a member Lease is refused", refused).await;
        refusal
    }

    /// The cluster takes only what is valid, of the objects that the rule and the condition match.
    async fn refuse(&self, name: String, rule: &Value, condition: &str, valid: &str) -> Refusal {
        let client = self.stage.client.clone();
        let policy = json!({
            "metadata": { "name": name },
            "spec": {
                "matchConstraints": { "resourceRules": [rule] },
                "matchConditions": [{ "name": "these", "expression": condition }],
                "validations": [{ "expression": valid }],
            },
        });
        let binding = json!({
            "metadata": { "name": name },
            "spec": { "policyName": name, "validationActions": ["Deny"] },
        });
        create::<ValidatingAdmissionPolicy>(&client, policy).await;
        create::<ValidatingAdmissionPolicyBinding>(&client, binding).await;
        Refusal { client, name }
    }
}

impl Refusal {
    pub(crate) async fn lift(self) {
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client);
        bindings.delete(&self.name, &DeleteParams::default()).await.expect("the policy is not bound any more");
    }
}

async fn create<K>(client: &Client, object: Value)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize,
{
    let object: K = serde_json::from_value(object).expect("an object of its kind");
    Api::<K>::all(client.clone()).create(&PostParams::default(), &object).await.expect("it is created");
}

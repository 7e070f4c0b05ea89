//! An API server that takes no finalizer on one object: an admission policy of the cluster says so.

use std::fmt::Debug;

use headgate_bed::stage::{SOURCES, event_sources};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
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
        let (client, name) = (self.stage.client.clone(), format!("no-finalizer-on-{source}"));
        let policy = json!({
            "metadata": { "name": name },
            "spec": {
                "matchConstraints": { "resourceRules": [{
                    "apiGroups": ["headgate.dev"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["eventsources"],
                }] },
                "matchConditions": [{
                    "name": "one-object",
                    "expression": format!("object.metadata.namespace == '{SOURCES}' && object.metadata.name == '{source}'"),
                }],
                "validations": [{ "expression": "!has(object.metadata.finalizers)" }],
            },
        });
        let binding = json!({
            "metadata": { "name": name },
            "spec": { "policyName": name, "validationActions": ["Deny"] },
        });
        create::<ValidatingAdmissionPolicy>(&client, policy).await;
        create::<ValidatingAdmissionPolicyBinding>(&client, binding).await;
        // It counts from when the API server has heard of it.
        let attempt = PatchParams { dry_run: true, ..PatchParams::default() };
        let finalizer = Patch::Merge(json!({ "metadata": { "finalizers": ["example.com/attempt"] } }));
        let refused = async || event_sources(&client).patch(source, &attempt, &finalizer).await.is_err();
        self.until("a finalizer is refused", refused).await;
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

//! The API server under test.

use std::path::Path;

use headgate::api::{EventSource, crd};
use headgate_bed::test_api::config_of;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, CustomResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::Status,
    runtime::{conditions, wait::await_condition},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::rules::{Before, with_url};

pub(crate) const NAMESPACE: &str = "default";

/// A client of the API server, with the definition applied.
pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) sources: Api<EventSource>,
}

/// One broken rule of a refusal.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Server {
    pub(crate) async fn connect() -> Self {
        static APPLIED: OnceCell<()> = OnceCell::const_new();
        let path = std::env::var("HEADGATE_TEST_KUBECONFIG").unwrap_or_else(|_| {
            panic!(
                "HEADGATE_TEST_KUBECONFIG is not set: run `make test`, or `make parts` and export the variables it prints"
            )
        });
        let config = config_of(Path::new(&path)).await.unwrap_or_else(|error| panic!("{error:#}"));
        let client = Client::try_from(config).expect("a client");
        APPLIED.get_or_init(|| apply_definition(client.clone())).await;
        Self { sources: Api::namespaced(client.clone(), NAMESPACE), client }
    }

    pub(crate) fn fresh_name() -> String {
        format!("crd-{:08x}", rand::random::<u32>())
    }

    /// Stores an object, with its cursor when it has one, and returns its name.
    pub(crate) async fn store(&self, before: &Before) -> String {
        let name = Self::fresh_name();
        self.apply(&name, &before.spec, false).await.expect("the object that a change starts from is taken");
        if let Some(cursor) = before.cursor {
            let status = json!({"apiVersion": "headgate.dev/v1alpha1", "kind": "EventSource",
                "status": {"observedGeneration": 1, "cursor": cursor}});
            let params = PatchParams::apply("headgate").validation_strict();
            self.sources.patch_status(&name, &params, &Patch::Apply(status)).await.expect("the status is taken");
        }
        name
    }

    /// Whether the server would take the spec: for a new object, or as the new spec of a stored one. `metadata.name` may
    /// stand beside the members of the spec.
    pub(crate) async fn would_take(&self, stored: Option<&str>, spec: &Value) -> Result<(), Vec<Violation>> {
        let mut spec = spec.clone();
        let own_name = spec.as_object_mut().and_then(|members| members.remove("metadata.name"));
        let name = match (stored, own_name) {
            (Some(name), _) => name.to_owned(),
            (None, Some(name)) => name.as_str().expect("a name").to_owned(),
            (None, None) => Self::fresh_name(),
        };
        match self.apply(&name, &spec, true).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(refusal)) if refusal.code == 422 => Err(violations(&refusal)),
            Err(error) => panic!("no verdict on {spec}: {error}"),
        }
    }

    /// Server-side apply with strict fields, so that a misspelt field in a case is an error and not an accepted object.
    async fn apply(&self, name: &str, spec: &Value, dry_run: bool) -> Result<DynamicObject, kube::Error> {
        let object = json!({
            "apiVersion": "headgate.dev/v1alpha1", "kind": "EventSource",
            "metadata": {"name": name}, "spec": with_url(spec),
        });
        let params = PatchParams { dry_run, ..PatchParams::apply("user").force().validation_strict() };
        self.untyped().patch(name, &params, &Patch::Apply(object)).await
    }

    /// The object as it is stored, defaults and all.
    pub(crate) async fn raw(&self, name: &str) -> Value {
        serde_json::to_value(self.untyped().get(name).await.expect("the object")).expect("plain data")
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.sources.delete(name, &DeleteParams::default()).await.expect("the object is deleted");
    }

    /// The list as kubectl asks for it.
    pub(crate) async fn table(&self) -> Value {
        let request = hyper::Request::get(format!("/apis/headgate.dev/v1alpha1/namespaces/{NAMESPACE}/eventsources"))
            .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())
            .expect("a request");
        self.client.request(request).await.expect("a table")
    }

    fn untyped(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &EventSource::api_resource())
    }
}

fn violations(refusal: &Status) -> Vec<Violation> {
    refusal
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .map(|violation| Violation { field: violation.field.clone(), message: violation.message.clone() })
        .collect()
}

async fn apply_definition(client: Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    let params = PatchParams::apply("headgate-tests").force();
    definitions.patch(EventSource::crd_name(), &params, &Patch::Apply(crd())).await.expect("the definition is taken");
    await_condition(definitions, EventSource::crd_name(), conditions::is_crd_established())
        .await
        .expect("the definition is served");
}

//! The user's side: EventSources applied, edited and deleted in the namespace of one test.

use headgate::api::{
    EventSource, EventSourceSpec,
    event_source::{DeletionPolicy, Http},
};
use headgate_bed::test_api::TestApi;
use k8s_openapi::{api::events::v1::Event, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::replica::until;

pub(crate) struct Cluster {
    pub(crate) api: TestApi,
    pub(crate) sources: Api<EventSource>,
}

impl Cluster {
    pub(crate) async fn with_the_crd() -> Self {
        let api = TestApi::create().await;
        Self { sources: Api::namespaced(api.client(), api.namespace()), api }
    }

    pub(crate) fn client(&self) -> Client {
        self.api.client()
    }

    pub(crate) async fn create(&self, name: &str) -> EventSource {
        self.create_with(name, |_| {}).await
    }

    pub(crate) async fn create_with(&self, name: &str, change: impl FnOnce(&mut EventSourceSpec)) -> EventSource {
        let mut object =
            EventSource::new(name, EventSourceSpec::over_http(Http::at(&format!("http://127.0.0.1:9/{name}"))));
        change(&mut object.spec);
        self.sources.create(&PostParams::default(), &object).await.expect("the object is taken")
    }

    pub(crate) async fn get(&self, name: &str) -> EventSource {
        self.sources.get(name).await.expect("the object")
    }

    pub(crate) async fn edit(&self, name: &str, patch: Value) -> EventSource {
        self.sources.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("the edit is taken")
    }

    pub(crate) async fn set_policy(&self, name: &str, policy: DeletionPolicy) {
        self.edit(name, json!({"spec": {"deletionPolicy": policy}})).await;
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.sources.delete(name, &DeleteParams::default()).await.expect("the deletion is taken");
    }

    pub(crate) async fn is_gone(&self, name: &str) {
        until(&format!("{name} is gone"), || async {
            self.sources.get_opt(name).await.expect("an answer").is_none().then_some(())
        })
        .await;
    }

    /// Waits for a condition of this type and reason, and returns it.
    pub(crate) async fn condition(&self, name: &str, kind: &str, reason: &str) -> Condition {
        until(&format!("{name} has {kind} with {reason}"), || async {
            let conditions = self.get(name).await.status.map(|status| status.conditions).unwrap_or_default();
            conditions.into_iter().find(|condition| condition.type_ == kind && condition.reason == reason)
        })
        .await
    }

    /// Waits for an Event about this object.
    pub(crate) async fn event(&self, name: &str, reason: &str) -> Event {
        until(&format!("{name} has the Event {reason}"), || async {
            self.events(name).await.into_iter().find(|event| event.reason.as_deref() == Some(reason))
        })
        .await
    }

    pub(crate) async fn events(&self, name: &str) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(self.client(), self.api.namespace());
        let list = events.list(&ListParams::default()).await.expect("the Events");
        let about = |event: &Event| event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(name);
        list.items.into_iter().filter(about).collect()
    }
}

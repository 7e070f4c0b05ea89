use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;
use crate::{
    api::{EventSourceStatus, FINALIZER, POLL_REQUESTED_AT},
    controller::fixtures::{noon, object, stream},
};

fn guard(object: EventSource) -> DeserializeGuard<EventSource> {
    DeserializeGuard(Ok(object))
}

fn applied(object: EventSource) -> WatchEvent {
    Event::Apply(guard(object))
}

fn take(intake: &mut Intake, event: WatchEvent) -> Outcome {
    intake.take(event, Instant::now())
}

fn listed(intake: &mut Intake, objects: impl IntoIterator<Item = EventSource>) -> Outcome {
    take(intake, Event::Init);
    for object in objects {
        take(intake, Event::InitApply(guard(object)));
    }
    take(intake, Event::InitDone)
}

fn unreadable(name: &str, generation: i64) -> WatchEvent {
    let document = json!({
        "apiVersion": "headgate.dev/v1alpha1",
        "kind": "EventSource",
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-of-{name}"), "generation": generation},
        "spec": {"http": {"url": "https://orders.test", "headers": [{"name": "X-Key", "value": ["hunter2, expected none"]}]}},
    });
    Event::Apply(serde_json::from_value(document).expect("a guarded object"))
}

#[test]
fn absence_says_nothing_before_the_first_list_is_complete() {
    let desired = Desired::default();
    let mut intake = Intake::new(desired.clone(), Unreadable::default());
    take(&mut intake, Event::Init);
    take(&mut intake, Event::InitApply(guard(object("orders"))));
    assert!(!desired.is_complete());
    assert_eq!(desired.len(), 1, "but what was listed may run");
    take(&mut intake, Event::InitDone);
    assert!(desired.is_complete());
}

#[test]
fn what_a_later_list_does_not_name_is_gone() {
    let desired = Desired::default();
    let mut intake = Intake::new(desired.clone(), Unreadable::default());
    listed(&mut intake, [object("orders"), object("stock")]);
    assert_eq!(listed(&mut intake, [object("stock")]), Outcome::Listed { gone: 1 });
    assert_eq!(desired.streams(), [stream("stock")]);
}

#[test]
fn a_list_that_broke_off_removes_nothing() {
    let desired = Desired::default();
    let mut intake = Intake::new(desired.clone(), Unreadable::default());
    listed(&mut intake, [object("orders"), object("stock")]);
    take(&mut intake, Event::Init);
    take(&mut intake, Event::InitApply(guard(object("stock"))));
    assert_eq!(listed(&mut intake, [object("orders"), object("stock")]), Outcome::Listed { gone: 0 });
    assert_eq!(desired.len(), 2);
}

#[test]
fn a_status_write_changes_nothing() {
    let desired = Desired::default();
    let mut intake = Intake::new(desired.clone(), Unreadable::default());
    take(&mut intake, applied(object("orders")));
    let before = desired.changes();
    let mut written = object("orders");
    written.status = Some(EventSourceStatus { observed_generation: 1, ..EventSourceStatus::default() });
    written.metadata.resource_version = Some("2".to_owned());
    assert_eq!(take(&mut intake, applied(written)), Outcome::Unchanged);
    assert!(!before.has_changed().expect("the set is there"));
}

#[test]
fn what_somebody_acts_on_is_let_through() {
    let changes: [fn(&mut EventSource); 5] = [
        |object| object.metadata.generation = Some(2),
        |object| object.metadata.uid = Some("another".to_owned()),
        |object| _ = object.annotations_mut().insert(POLL_REQUESTED_AT.to_owned(), "now".to_owned()),
        |object| object.finalizers_mut().push(FINALIZER.to_owned()),
        |object| {
            object.finalizers_mut().push(FINALIZER.to_owned());
            object.metadata.deletion_timestamp = Some(Time(noon()));
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut intake = Intake::new(Desired::default(), Unreadable::default());
        take(&mut intake, applied(object("orders")));
        let mut changed = object("orders");
        change(&mut changed);
        assert_eq!(take(&mut intake, applied(changed)), Outcome::Applied, "change {number}");
    }
}

#[test]
fn a_deleted_object_is_removed_when_only_others_hold_it_back() {
    let desired = Desired::default();
    let mut intake = Intake::new(desired.clone(), Unreadable::default());
    take(&mut intake, applied(object("orders")));
    let mut deleted = object("orders");
    deleted.metadata.deletion_timestamp = Some(Time(noon()));
    deleted.finalizers_mut().push("foregroundDeletion".to_owned());
    assert_eq!(take(&mut intake, applied(deleted.clone())), Outcome::Removed);
    assert_eq!(take(&mut intake, Event::Delete(guard(deleted))), Outcome::Unchanged);
    assert!(desired.is_empty());
}

#[test]
fn an_object_that_nobody_here_can_read_is_not_run_and_said_once() {
    let desired = Desired::default();
    let mut intake = Intake::new(desired.clone(), Unreadable::default());
    take(&mut intake, applied(object("orders")));
    let Outcome::Invalid(invalid) = take(&mut intake, unreadable("orders", 2)) else { panic!("it is invalid") };
    assert_eq!((invalid.stream, invalid.generation), (stream("orders"), 2));
    assert!(desired.is_empty());
    assert_eq!(take(&mut intake, unreadable("orders", 2)), Outcome::Unchanged, "a status write on it");
    assert!(matches!(take(&mut intake, unreadable("orders", 3)), Outcome::Invalid(_)), "another attempt of its owner");
    assert_eq!(take(&mut intake, applied(object("orders"))), Outcome::Applied);
}

#[test]
fn what_is_corrected_deleted_or_not_listed_any_more_is_not_unreadable() {
    let unreadable_now = Unreadable::default();
    let mut intake = Intake::new(Desired::default(), unreadable_now.clone());
    for name in ["corrected", "deleted", "unlisted", "broken"] {
        take(&mut intake, unreadable(name, 1));
    }
    assert_eq!(unreadable_now.len(), 4);
    take(&mut intake, applied(object("corrected")));
    take(&mut intake, Event::Delete(guard(object("deleted"))));
    assert_eq!(unreadable_now.len(), 2);
    let Event::Apply(broken) = unreadable("broken", 1) else { unreachable!() };
    take(&mut intake, Event::Init);
    take(&mut intake, Event::InitApply(broken));
    take(&mut intake, Event::InitDone);
    assert_eq!(unreadable_now.len(), 1, "and a list that breaks off takes nothing out");
}

#[test]
fn an_invalid_object_does_not_stop_the_list() {
    let desired = Desired::default();
    let mut intake = Intake::new(desired.clone(), Unreadable::default());
    take(&mut intake, Event::Init);
    let Event::Apply(broken) = unreadable("broken", 1) else { unreachable!() };
    take(&mut intake, Event::InitApply(broken));
    take(&mut intake, Event::InitApply(guard(object("orders"))));
    take(&mut intake, Event::InitDone);
    assert!(desired.is_complete());
    assert_eq!(desired.streams(), [stream("orders")]);
}

#[test]
fn what_is_said_of_an_invalid_object_quotes_none_of_its_values() {
    let mut intake = Intake::new(Desired::default(), Unreadable::default());
    let Outcome::Invalid(invalid) = take(&mut intake, unreadable("orders", 1)) else { panic!("it is invalid") };
    assert!(!invalid.message.contains("hunter2"), "{}", invalid.message);
    for (error, said) in [
        ("invalid type: string \"s3cr3t, expected x\", expected i32", "expected i32"),
        ("missing field `url`", "missing field `url`"),
        ("bad duration s3cr3t", "wrong form"),
    ] {
        assert!(describe(error).contains(said) && !describe(error).contains("s3cr3t"), "{}", describe(error));
    }
}

#[test]
fn the_younger_of_two_with_one_url_knows_the_older_whatever_came_first() {
    let url = "https://orders.test/events";
    let sharing = |name: &str, age: i64| {
        let mut object = object(name);
        object.spec.http.as_mut().expect("http").url = url.to_owned();
        object.metadata.creation_timestamp = Some(Time(noon() - SignedDuration::from_secs(age)));
        object
    };
    let desired = Desired::default();
    let mut intake = Intake::new(desired.clone(), Unreadable::default());
    let elder = |name: &str| desired.get(&stream(name)).expect("known").shares_endpoint_with.clone();
    take(&mut intake, applied(sharing("young", 1)));
    assert_eq!(elder("young"), None);
    take(&mut intake, applied(sharing("old", 2)));
    assert_eq!((elder("old"), elder("young")), (None, Some(stream("old"))));
    take(&mut intake, Event::Delete(guard(sharing("old", 2))));
    assert_eq!(elder("young"), None);
}

#[test]
fn every_watch_event_of_a_shared_endpoint_leaves_the_other_alone_unless_its_elder_changed() {
    let desired = Desired::default();
    let mut intake = Intake::new(desired.clone(), Unreadable::default());
    let sharing = |name: &str, generation| {
        let mut object = object(name);
        object.spec.http.as_mut().expect("http").url = "https://orders.test/events".to_owned();
        object.metadata.generation = Some(generation);
        object
    };
    take(&mut intake, applied(sharing("a", 1)));
    take(&mut intake, applied(sharing("b", 1)));
    let before = desired.get(&stream("b")).expect("known");
    take(&mut intake, applied(sharing("a", 2)));
    assert!(Arc::ptr_eq(&before, &desired.get(&stream("b")).expect("known")));
}

use jiff::Timestamp;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::event::StreamName;

fn at() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

fn stored(mut lease: Lease, version: &str) -> Lease {
    lease.metadata.resource_version = Some(version.to_owned());
    lease.metadata.uid = Some("the-first".to_owned());
    lease
}

fn version(number: &str) -> Version {
    Version::of(&stored(Lease::default(), number))
}

#[test]
fn a_source_lease_reads_back_as_it_was_written() {
    let stream = StreamName::new("shop", "orders.v2");
    let holder = Holder::new("headgate-0_1a2b3c4d");
    let lease = stored(SourceLease::give(&stream, None, &holder, "headgate-0", at()), "7");
    let Seen::Source(read) = read(&lease) else { panic!("not read as a source's Lease") };
    assert_eq!((read.stream, read.holder), (stream, Some(holder)));
    assert_eq!((read.version, read.transitions, read.acquired), (version("7"), 0, Some(at())));
}

#[test]
fn a_change_of_holder_carries_the_version_it_replaces_and_counts_the_transition() {
    let stream = StreamName::new("shop", "orders");
    let first = stored(SourceLease::give(&stream, None, &Holder::new("a_1"), "a", at()), "7");
    let previous = SourceLease::read(&first).unwrap();
    let second = SourceLease::give(&stream, Some(&previous), &Holder::new("b_2"), "b", at());
    assert_eq!(second.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(second.metadata.uid.as_deref(), Some("the-first"));
    assert_eq!(second.spec.as_ref().unwrap().lease_transitions, Some(1));
    assert_eq!(label(&second, HOLDER), Some("b"));
    assert_eq!(second.metadata.owner_references, None, "across namespaces the garbage collector would delete it");
}

#[test]
fn a_source_lease_whose_labels_were_changed_by_hand_is_not_taken_for_another_source() {
    let mut lease = SourceLease::give(&StreamName::new("shop", "orders"), None, &Holder::new("a_1"), "a", at());
    lease.metadata.labels.as_mut().unwrap().insert(NAME.to_owned(), "invoices".to_owned());
    assert_eq!(read(&lease), Seen::Other);
}

#[test]
fn a_member_lease_reads_back_as_it_was_written() {
    let mut member = MemberLease::begin("headgate-7d9c6b5f4-x2x9k", 0x1a2b, "7d9c6b5f4", Duration::from_secs(5));
    let silent = Duration::from_millis(11_250);
    member.state = MemberState { draining: true, database_lost: true, database_silent: Some(silent) };
    assert_eq!(&*member.name, "headgate-member-headgate-7d9c6b5f4-x2x9k-00001a2b");
    assert_eq!(read(&member.write(at())), Seen::Member(member.clone()));
    member.state = MemberState::default();
    assert_eq!(read(&member.write(at())), Seen::Member(member), "a database that never answered");
}

#[test]
fn a_death_certificate_names_the_dead_and_its_witness_and_is_bound_to_the_version_measured() {
    let mut member = MemberLease::begin("headgate-0", 1, "", Duration::from_secs(5));
    member.version = version("41");
    let witness = Holder::new("headgate-1_00000002");
    let certificate = member.declared_dead(&witness).unwrap();
    let written = certificate.write(at());
    assert_eq!(written.metadata.resource_version.as_deref(), Some("41"));
    assert_eq!(written.metadata.uid.as_deref(), Some("the-first"), "a PUT without it creates what was deleted");
    let Seen::Member(read) = read(&written) else { panic!("not read as a member's Lease") };
    let death = Death { of: Holder::new("headgate-0_00000001"), declared_by: witness.clone() };
    assert_eq!((read.standing.clone(), read.holder()), (Standing::Dead(death), None));
    assert_eq!(read.declared_dead(&witness), None, "nobody dies twice");
}

#[test]
fn a_member_lease_without_a_holder_is_a_certificate_only_where_it_names_the_dead_and_the_witness() {
    let member = MemberLease::begin("headgate-0", 1, "", Duration::from_secs(5));
    let certificate = member.declared_dead(&Holder::new("headgate-1_00000002")).unwrap().write(at());
    let standing = |edit: &dyn Fn(&mut Lease)| {
        let mut edited = certificate.clone();
        edit(&mut edited);
        MemberLease::read(&edited).unwrap().standing
    };
    let name = |lease: &mut Lease| lease.spec.as_mut().unwrap().holder_identity = Some("bob".to_owned());
    let forget_the_witness = |lease: &mut Lease| {
        lease.metadata.annotations.as_mut().unwrap().remove("headgate.dev/declared-dead-by");
    };
    assert!(matches!(standing(&|_| {}), Standing::Dead(_)));
    assert_eq!(standing(&name), Standing::Alive(Holder::new("bob")), "whoever it names lives, whatever else it says");
    assert_eq!(standing(&forget_the_witness), Standing::Released);
}

#[rstest]
#[case::as_it_is("headgate-0", "headgate-0")]
#[case::too_long(
    "headgate-with-a-name-that-goes-on-and-on-and-on-7d9c6b5f4-x2x9k0",
    "headgate-with-a-name-that-goes-on-and-on-and-on-7d9c6b-ddc3dd03"
)]
#[case::bad_characters("my laptop!", "mylaptop-37085da5")]
#[case::nothing_left("___", "b8c3741a")]
fn label_values_fit_every_label(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(label_value(text), expected);
    assert!(expected.len() <= LABEL_LIMIT);
}

#[test]
fn pods_with_names_of_any_length_have_lease_names_of_their_own() {
    let name = |pod: &str| MemberLease::begin(pod, 1, "", Duration::from_secs(5)).name;
    let (long, longer) = ("p".repeat(253), "p".repeat(254));
    assert_ne!(name(&long), name(&longer));
    assert!(name(&longer).len() <= FIELD_LIMIT);
    assert!(!name("pod.with.dots").contains('.'), "a dot is what every source's Lease has");
}

#[test]
fn versions_compare_as_numbers_and_an_opaque_one_is_never_older() {
    assert!(version("9").is_older_than(&version("10")));
    assert!(!version("10").is_older_than(&version("10")));
    assert!(!version("abc").is_older_than(&version("10")));
}

/// What this release puts on the wire, and reads from one that runs beside it in a rolling update or a rollback: fields may be
/// added, and none of these may change its name, its place or its form.
#[test]
fn leases_look_as_the_releases_beside_this_one_read_them() {
    let wire = |lease: &Lease| serde_json::to_value(lease).unwrap();
    let source = |previous: Option<&SourceLease>, holder: &str, pod: &str| {
        SourceLease::give(&StreamName::new("shop", "orders.v2"), previous, &Holder::new(holder), pod, at())
    };
    let first = source(None, "headgate-0_1a2b3c4d", "headgate-0");
    assert_eq!(
        wire(&first),
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": "shop.orders.v2",
                "labels": {
                    "app.kubernetes.io/managed-by": "headgate",
                    "headgate.dev/kind": "EventSource",
                    "headgate.dev/namespace": "shop",
                    "headgate.dev/name": "orders.v2",
                    "headgate.dev/holder": "headgate-0",
                },
            },
            "spec": {
                "holderIdentity": "headgate-0_1a2b3c4d",
                "leaseDurationSeconds": 315_360_000,
                "leaseTransitions": 0,
                "acquireTime": "2026-11-22T10:00:00.000000Z",
                "renewTime": "2026-11-22T10:00:00.000000Z",
            },
        })
    );
    let moved = wire(&source(SourceLease::read(&stored(first, "7")).as_ref(), "headgate-1_00000002", "headgate-1"));
    assert_eq!(moved["metadata"]["resourceVersion"], "7");
    assert_eq!(moved["metadata"]["uid"], "the-first");
    assert_eq!(moved["metadata"]["labels"]["headgate.dev/holder"], "headgate-1");
    assert_eq!(moved["spec"]["holderIdentity"], "headgate-1_00000002");
    assert_eq!(moved["spec"]["leaseTransitions"], 1);

    let installation = installation();
    assert_eq!(
        wire(&bound_to(&installation, "00000000-0000-4000-8000-00000000000a")),
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": "headgate-installation",
                "labels": {"app.kubernetes.io/managed-by": "headgate", "headgate.dev/kind": "Installation"},
                "annotations": {"headgate.dev/database": "00000000-0000-4000-8000-00000000000a"},
            },
        })
    );
}

/// As above, for what a member says of itself, and what is said of a dead one.
#[test]
fn member_leases_look_as_the_releases_beside_this_one_read_them() {
    let wire = |member: &MemberLease| serde_json::to_value(member.write(at())).unwrap();
    let mut member = MemberLease::begin("headgate-0", 0x1a2b, "7d9c6b5f4", Duration::from_secs(5));
    let expected = |annotations, holder, rest| {
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": "headgate-member-headgate-0-00001a2b",
                "labels": {
                    "app.kubernetes.io/managed-by": "headgate",
                    "headgate.dev/kind": "Member",
                    "headgate.dev/holder": "headgate-0",
                },
                "annotations": annotations,
            },
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": 5,
                "renewTime": "2026-11-22T10:00:00.000000Z",
            },
        });
        merge(&mut lease, rest);
        lease
    };
    let (pod, template) = ("headgate-0", "7d9c6b5f4");
    let joins = json!({"headgate.dev/pod": pod, "headgate.dev/pod-template": template});
    assert_eq!(wire(&member), expected(joins, "headgate-0_00001a2b", json!({})));

    member.version = version("41");
    member.created = Some("2026-11-22T09:00:00.5Z".parse().unwrap());
    let silent = Some(Duration::from_millis(11_250));
    member.state = MemberState { draining: true, database_lost: true, database_silent: silent };
    let leaves = json!({
        "headgate.dev/pod": pod,
        "headgate.dev/pod-template": template,
        "headgate.dev/draining": "true",
        "headgate.dev/database-lost": "true",
        "headgate.dev/database-silent-ms": "11250",
    });
    let later = json!({
        "metadata": {"resourceVersion": "41", "uid": "the-first", "managedFields": [{}]},
        "spec": {"acquireTime": "2026-11-22T09:00:00.500000Z"},
    });
    assert_eq!(wire(&member), expected(leaves.clone(), "headgate-0_00001a2b", later.clone()));

    let dead = member.declared_dead(&Holder::new("headgate-1_00000002")).unwrap();
    let mut certificate = leaves;
    merge(
        &mut certificate,
        json!({
            "headgate.dev/dead-holder": "headgate-0_00001a2b",
            "headgate.dev/declared-dead-by": "headgate-1_00000002",
        }),
    );
    assert_eq!(wire(&dead), expected(certificate, "", later));
}

/// Puts the members of `added` into `object`, at any depth.
fn merge(object: &mut serde_json::Value, added: serde_json::Value) {
    match (object.as_object_mut(), added) {
        (Some(object), serde_json::Value::Object(added)) => {
            for (key, value) in added {
                merge(object.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (_, added) => *object = added,
    }
}

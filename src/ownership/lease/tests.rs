use jiff::Timestamp;
use rstest::rstest;

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
    assert_eq!(read.holder, None);
    assert_eq!(read.death, Some(Death { of: Holder::new("headgate-0_00000001"), declared_by: witness.clone() }));
    assert_eq!(read.declared_dead(&witness), None, "nobody dies twice");
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

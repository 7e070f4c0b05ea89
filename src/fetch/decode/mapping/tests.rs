use rstest::rstest;

use super::*;

/// A mapping with an id at `$.id` and these paths.
fn paths(set: impl FnOnce(&mut Mapping)) -> ItemMapping {
    let mut mapping = Mapping::default();
    set(&mut mapping);
    ItemMapping::new(&mapping).expect("a valid mapping")
}

fn id_at(path: &str) -> ItemMapping {
    paths(|mapping| mapping.id_path = Some(path.to_owned()))
}

fn all_paths() -> ItemMapping {
    paths(|mapping| {
        mapping.time_path = Some("$.meta.at".to_owned());
        mapping.type_path = Some("$.meta.type".to_owned());
        mapping.subject_path = Some("$['subject']".to_owned());
        mapping.data_path = Some("$.data".to_owned());
    })
}

fn cloud_events() -> ItemMapping {
    let preset = Some(MappingPreset::CloudEvents);
    ItemMapping::new(&Mapping { preset, id_path: None, ..Mapping::default() }).expect("a valid mapping")
}

impl ItemMapping {
    fn event_of(&self, item: &str) -> Event {
        match self.item(item.as_bytes()) {
            Ok(Item::Event(event)) => event,
            other => panic!("{item} gave {other:?}"),
        }
    }

    fn set_aside_of(&self, item: &str) -> SetAside {
        match self.item(item.as_bytes()) {
            Ok(Item::SetAside(set_aside)) => set_aside,
            other => panic!("{item} gave {other:?}"),
        }
    }

    fn error_of(&self, item: &str) -> String {
        match self.item(item.as_bytes()) {
            Err(ItemError::NoId { problem, remedy, .. }) => format!("{problem}; {remedy}"),
            Err(ItemError::NotJson { at, what, .. }) => format!("byte {at}: {what}"),
            Ok(item) => panic!("gave {item:?}"),
        }
    }
}

#[test]
fn every_path_finds_its_field() {
    let event = all_paths().event_of(
        r#"{"meta":{"type":"order.paid","at":"2026-11-22T09:14:03Z"},"subject":"o-1","id":"7","data":{ "a" : 1.0 }}"#,
    );
    assert_eq!(event.id.as_str(), "7");
    assert_eq!(event.event_type.as_deref(), Some("order.paid"));
    assert_eq!(event.subject.as_deref(), Some("o-1"));
    assert_eq!(event.occurred_at.map(|time| time.to_string()).as_deref(), Some("2026-11-22T09:14:03Z"));
    assert_eq!(event.payload.as_str(), r#"{ "a" : 1.0 }"#);
}

#[rstest]
#[case("$.id", r#"{"id":1}"#, "1")]
#[case("$.id", r#"{"id":"1"}"#, "1")]
#[case("$.id", r#"{"id":"007"}"#, "007")]
#[case("$.id", r#"{"id":0}"#, "0")]
#[case("$.id", r#"{"id":9007199254740993}"#, "9007199254740993")]
#[case(
    "$.id",
    r#"{"id":12345678901234567890123456789012345678901234567890}"#,
    "12345678901234567890123456789012345678901234567890"
)]
#[case("$.id", r#"{"id":"01JD8Z6K0V8M"}"#, "01JD8Z6K0V8M")]
#[case("$.id", r#"{"id":"\u0061\/\ud83e\udd80"}"#, "a/🦀")]
#[case("$.id", r#"{"\u0069d":1}"#, "1")]
#[case("$.id", r#"{"id":1,"id":2}"#, "2")]
#[case("$.a.id", r#"{"a":{"id":1},"a":{"id":2,"b":3}}"#, "2")]
#[case("$.a[1][0].id", r#"{"a":[0,[{"id":5}],2]}"#, "5")]
#[case("$", "17", "17")]
#[case("$[0]", r#"["x",1]"#, "x")]
fn an_id_is_taken_from_its_text(#[case] path: &str, #[case] item: &str, #[case] id: &str) {
    assert_eq!(id_at(path).event_of(item).id.as_str(), id);
}

#[rstest]
#[case(r#"{"s3cret":1}"#, "the item is an object with nothing")]
#[case("[1]", "the item is an array with nothing")]
#[case(r#""s3cret""#, "the item is a string with nothing")]
#[case(r#"{"id":null}"#, "found null")]
#[case(r#"{"id":true}"#, "found a boolean")]
#[case(r#"{"id":{"s3cret":1}}"#, "found an object")]
#[case(r#"{"id":["s3cret"]}"#, "found an array")]
#[case(r#"{"id":-1}"#, "found a negative number")]
#[case(r#"{"id":1.0}"#, "found a number with a fraction or an exponent")]
#[case(r#"{"id":1e3}"#, "found a number with a fraction or an exponent")]
#[case(r#"{"id":""}"#, "found a text that cannot be an id (the id is empty)")]
#[case(r#"{"id":"s3cret\u0000"}"#, "found a text that cannot be an id (the id holds a control character)")]
#[case(r#"{"id":"s3cret\ud800"}"#, "found a string with half a surrogate pair")]
#[case(r#"{"id":1,"id":null}"#, "found null")]
fn an_item_without_a_usable_id_says_what_it_has_instead(#[case] item: &str, #[case] problem: &str) {
    assert_eq!(
        id_at("$.id").error_of(item),
        format!("{problem} at `$.id`; set `mapping.idPath` to the path of the id")
    );
}

#[test]
fn a_later_namesake_voids_what_an_earlier_one_held() {
    let event = all_paths().event_of(r#"{"id":1,"meta":{"type":"old","at":0},"meta":{"type":"new"}}"#);
    assert_eq!((event.event_type.as_deref(), event.occurred_at), (Some("new"), None));
    assert!(id_at("$.a.id").error_of(r#"{"a":{"id":1},"a":2}"#).starts_with("the item is an object with nothing"));
}

#[rstest]
#[case(r#"{"id":1}"#)]
#[case(r#"{"id":1,"meta":null,"subject":null}"#)]
#[case(r#"{"id":1,"meta":[],"subject":{}}"#)]
#[case(r#"{"id":1,"meta":{"type":["a"],"at":"soon"},"subject":"\udc00"}"#)]
fn no_field_but_the_id_can_lose_an_event(#[case] item: &str) {
    let event = all_paths().event_of(item);
    assert_eq!((event.event_type, event.subject, event.occurred_at), (None, None, None));
    assert_eq!(event.payload.as_str(), item, "without data the whole item is the payload");
}

#[test]
fn a_type_or_subject_may_be_a_number_or_boolean() {
    let event = all_paths().event_of(r#"{"id":1,"meta":{"type":-1.50},"subject":true}"#);
    assert_eq!((event.event_type.as_deref(), event.subject.as_deref()), (Some("-1.50"), Some("true")));
}

#[rstest]
#[case(r#"{"id":1,"a":"\ud800","b":"\u0000","c":1234567890123456789012345678901234567890,"c":1.0E-2,"\udc00":"é"}"#)]
#[case("{ \"id\"\t:1 ,\n\"a\" : [ ] }")]
fn a_payload_is_kept_byte_for_byte(#[case] item: &str) {
    assert_eq!(id_at("$.id").event_of(item).payload.as_str(), item);
    let data = all_paths().event_of(&format!(r#"{{"id":9,"data": {item} }}"#));
    assert_eq!(data.payload.as_str(), item);
}

#[rstest]
#[case(r#"{"id":5,"meta":{"type":"a\u0000"}}"#)]
#[case(r#"{"id":5,"subject":"\u0000"}"#)]
#[case("{\"id\":5,\"data\":\"a\0b\"}")]
#[case("{\"id\":5,\"a\0b\":1}")]
fn an_item_that_no_text_can_hold_is_set_aside_under_its_id(#[case] item: &str) {
    let set_aside = all_paths().set_aside_of(item);
    assert_eq!((set_aside.id.as_str(), set_aside.reason), ("5", SetAsideReason::NulCharacter));
    assert_eq!(&*set_aside.item, item.as_bytes());
}

#[test]
fn a_nul_byte_excuses_nothing_else() {
    assert_eq!(id_at("$.id").error_of("{\"id\":5,\0\"a\":1}"), "byte 8: is not JSON: key must be a string");
    assert!(id_at("$.id").error_of("{\"id\":\"\0\"}").contains("the id holds a control character"));
}

#[test]
fn only_a_payload_nested_too_deep_is_set_aside() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let item = |levels: usize| format!(r#"{{"id":5,"x":{},"data":{}}}"#, nested(500), nested(levels));
    assert_eq!(all_paths().event_of(&item(128)).payload.as_str(), nested(128));
    let set_aside = all_paths().set_aside_of(&item(129));
    assert_eq!((set_aside.id.as_str(), set_aside.reason), ("5", SetAsideReason::NestedTooDeep));
    assert_eq!(&*set_aside.item, item(129).as_bytes());
}

#[rstest]
#[case::json(r#""data":{"a": 1}"#, r#"{"a": 1}"#)]
#[case::json_named(r#""datacontenttype":"application/json; charset=utf-8","data":[1]"#, "[1]")]
#[case::json_suffix(r#""datacontenttype":"application/vnd.shop+JSON","data":"x""#, r#""x""#)]
#[case::null_is_data(r#""data":null"#, "null")]
#[case::null_attributes(r#""datacontenttype":null,"data_base64":null,"data":1"#, "1")]
fn the_json_data_of_a_cloud_event_is_the_payload(#[case] members: &str, #[case] payload: &str) {
    let event = format!(
        r#"{{"specversion":"1.0","id":"e-1","source":"/shop","type":"paid","subject":"o-1","time":"2026-11-22T09:14:03Z",{members}}}"#
    );
    let event = cloud_events().event_of(&event);
    assert_eq!(
        (event.id.as_str(), event.event_type.as_deref(), event.subject.as_deref()),
        ("e-1", Some("paid"), Some("o-1"))
    );
    assert!(event.occurred_at.is_some());
    assert_eq!(event.payload.as_str(), payload);
}

#[rstest]
#[case::no_data(r#"{"specversion":"1.0","id":"1","source":"/a","type":"t"}"#)]
#[case::base64(
    r#"{"specversion":"1.0","id":"1","source":"/a","type":"t","datacontenttype":"image/png","data_base64":"iVBO"}"#
)]
#[case::other_text(
    r#"{"specversion":"1.0","id":"1","source":"/a","type":"t","datacontenttype":"text/xml","data":"<a/>"}"#
)]
fn the_payload_of_any_other_cloud_event_is_the_whole_event(#[case] event: &str) {
    assert_eq!(cloud_events().event_of(event).payload.as_str(), event);
}

#[test]
fn a_cloud_event_without_id_names_the_preset() {
    assert_eq!(
        cloud_events().error_of(r#"{"type":"t"}"#),
        "the item is an object with nothing at `$.id`, where `mapping.preset: CloudEvents` has the id; if it is elsewhere, set paths instead of the preset"
    );
}

#[test]
fn a_preset_beside_paths_is_refused() {
    let preset = Some(MappingPreset::CloudEvents);
    assert!(ItemMapping::new(&Mapping { preset, ..Mapping::default() }).is_ok(), "the default idPath says the same");
    let both = Mapping { preset, time_path: Some("$.time".to_owned()), ..Mapping::default() };
    assert_eq!(
        ItemMapping::new(&both).expect_err("an invalid mapping").to_string(),
        "mapping.preset is not valid: it fixes the paths; set either `preset` or paths"
    );
}

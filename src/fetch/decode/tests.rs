use rstest::rstest;

use super::*;
use crate::event::{Event, SetAside, SetAsideReason};

mod fuzz;
mod guess;
mod properties;

/// The response of a source whose spec sets these.
pub(super) struct Source(Decode, Mapping);

pub(super) fn json() -> Source {
    Source(Decode::default(), Mapping::default())
}

pub(super) fn ndjson() -> Source {
    Source(Decode { format: Format::NDJSON, items_path: None }, Mapping::default())
}

fn cloud_events(Source(decode, _): Source) -> Source {
    let preset = Some(crate::api::event_source::MappingPreset::CloudEvents);
    Source(decode, Mapping { preset, id_path: None, ..Mapping::default() })
}

impl Source {
    pub(super) fn items_at(mut self, path: &str) -> Self {
        self.0.items_path = Some(path.to_owned());
        self
    }

    fn id_at(mut self, path: &str) -> Self {
        self.1.id_path = Some(path.to_owned());
        self
    }

    fn decoder(&self) -> Result<Decoder, OpenError> {
        Decoder::new(&self.0, &self.1)
    }

    pub(super) fn page(&self) -> PageDecoder {
        self.decoder().expect("a valid spec").page(&Cursor::Start)
    }

    pub(super) fn reads(&self, body: impl AsRef<[u8]>) -> Outcome {
        self.reads_pieces([body.as_ref()])
    }

    /// What the loader gets of a body that arrives in these pieces and then ends.
    pub(super) fn reads_pieces<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut outcome = self.reads_open(pieces);
        while outcome.error.is_none() {
            match outcome.page.finish() {
                Ok(items) if items.is_empty() => break,
                Ok(items) => outcome.take(items),
                Err(error) => outcome.error = Some(error),
            }
        }
        outcome
    }

    /// As far as the pieces go; the body has not ended.
    pub(super) fn reads_open<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut outcome = Outcome { events: vec![], set_aside: vec![], error: None, page: self.page() };
        for piece in pieces {
            match outcome.page.push(piece) {
                Ok(items) => outcome.take(items),
                Err(error) => {
                    outcome.error = Some(error);
                    break;
                }
            }
        }
        outcome
    }
}

pub(super) struct Outcome {
    pub(super) events: Vec<Event>,
    pub(super) set_aside: Vec<SetAside>,
    pub(super) error: Option<FetchError>,
    page: PageDecoder,
}

impl Outcome {
    fn take(&mut self, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Event(event) => self.events.push(event),
                Item::SetAside(item) => self.set_aside.push(item),
            }
        }
    }

    fn ids(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.id.as_str()).collect()
    }

    fn payloads(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.payload.as_str()).collect()
    }

    fn error(&self) -> String {
        self.error.as_ref().map_or("no error".to_owned(), ToString::to_string)
    }
}

#[rstest]
#[case::array(json(), r#"[{"id":1},{"id":2}]"#)]
#[case::spaced_array(json(), " [ {\"id\":1} ,\r\n\t{\"id\":2} ] \n")]
#[case::byte_order_mark(json(), "\u{feff}[{\"id\":1},{\"id\":2}]")]
#[case::object_with_one_array(json(), r#"{"count":2,"data":[{"id":1},{"id":2}],"links":{"all":[1,2]},"more":false}"#)]
#[case::key_that_looks_like_more(json(), r#"{"a \" [":"]","data":[{"id":1},{"id":2}]}"#)]
#[case::root(json().items_at("$"), r#"[{"id":1},{"id":2}]"#)]
#[case::path(json().items_at("$.data.rows"), r#"{"data":{"x":[{"id":9}],"rows":[{"id":1},{"id":2}],"y":[]},"rows":[{"id":8}]}"#)]
#[case::path_past_namesakes(json().items_at("$.a.b"), r#"{"b":[{"id":9}],"c":{"b":[{"id":8}]},"a":{"b":[{"id":1},{"id":2}]},"d":{"b":[1]}}"#)]
#[case::bracket_path(json().items_at("$['the data'][1]"), r#"{"the data":[[{"id":9}],[{"id":1},{"id":2}],{}]}"#)]
#[case::path_through_array(json().items_at("$[1].items"), r#"[{"items":[{"id":9}]},{"items":[{"id":1},{"id":2}]}]"#)]
#[case::escaped_key(json().items_at("$.data"), r#"{"\u0064at\u0061":[{"id":1},{"id":2}]}"#)]
#[case::odd_keys_aside(json().items_at("$.data"), r#"{"\ud800":1,"":2,"data":[{"id":1},{"id":2}]}"#)]
#[case::lines(ndjson(), "{\"id\":1}\n{\"id\":2}\n")]
#[case::no_last_newline(ndjson(), "{\"id\":1}\n{\"id\":2}")]
#[case::crlf_and_blank_lines(ndjson(), "\r\n{\"id\":1}\r\n\r\n \t\n{\"id\":2}\r\n")]
#[case::byte_order_mark_on_lines(ndjson(), "\u{feff}{\"id\":1}\n{\"id\":2}\n")]
fn every_shape_that_holds_two_items_gives_them(#[case] source: Source, #[case] body: &str) {
    let read = source.reads(body);
    assert_eq!((read.ids(), read.error()), (vec!["1", "2"], "no error".to_owned()));
    assert_eq!(read.payloads(), [r#"{"id":1}"#, r#"{"id":2}"#]);
}

#[rstest]
#[case(json(), "[]")]
#[case(json(), r#"{"next":null,"data":[ ]}"#)]
#[case(json().items_at("$.data"), r#"{"data":[]}"#)]
#[case(json(), "null")]
#[case(json(), " null\n")]
#[case(json().items_at("$"), "null")]
#[case(json().items_at("$.data"), r#"{"data":null,"next":null}"#)]
#[case(json().items_at("$[1]"), "[1, null ]")]
#[case(ndjson(), "")]
#[case(ndjson(), "\n\r\n")]
fn a_page_may_be_empty(#[case] source: Source, #[case] body: &str) {
    for piece in [1, body.len().max(1)] {
        let read = source.reads_pieces(body.as_bytes().chunks(piece));
        assert_eq!((read.events.len(), read.error()), (0, "no error".to_owned()));
    }
}

/// Every body holds the word `s3cret` where it can; no text may repeat it.
#[rstest]
#[case(json(), "", "the body is empty (at byte 0)")]
#[case(json(), " \n", "the body is empty (at byte 2)")]
#[case(json(), "<html>s3cret", "the body is not JSON (it looks like HTML or XML) (at byte 0)")]
#[case(json(), "s3cret", "the body is not JSON: expected a value (at byte 0)")]
#[case(json(), r#""s3cret""#, "the body is a string; it must be an array of items, or an object with one (at byte 0)")]
#[case(json(), "nul", "the body is not JSON: expected a value (at byte 0)")]
#[case(json(), "nulls3cret ", "the body is not JSON: expected a value (at byte 0)")]
#[case(
    json(),
    "null s3cret",
    "something follows the JSON value of the body; if it has one item per line, set `http.decode.format: NDJSON` (at byte 5)"
)]
#[case(json().items_at("$.data"), r#"{"data":nil}"#, "the body is not JSON: expected a value (at byte 8)")]
#[case(json().items_at("$.data"), "null", "found null at `$`; `http.decode.itemsPath: $.data` needs an object there (at byte 0)")]
#[case(
    json(),
    r#"{"s3cret":1}"#,
    "the body is an object without an array; add `http.decode.itemsPath: $.<path>` with the path of the array of items, or, if each line is an item, set `http.decode.format: NDJSON` (at byte 11)"
)]
#[case(
    json(),
    r#"{"a":[{"id":1}],"s3cret":[]}"#,
    "the body is an object with more than one array; add `http.decode.itemsPath: $.<name>` with the name of the array of items (at byte 25)"
)]
#[case(json(), "[{\"id\":1}\n", "the body ends before its JSON value does (at byte 10)")]
#[case(json(), r#"[{"id":1},{"id":2,"s3cret"#, "the body ends inside item 2 (at byte 25)")]
#[case(
    json(),
    r#"[{"id":1}] s3cret"#,
    "something follows the JSON value of the body; if it has one item per line, set `http.decode.format: NDJSON` (at byte 11)"
)]
#[case(json(), r#"[{"id":1} s3cret]"#, "the body is not JSON: expected `,` or `]` (at byte 10)")]
#[case(json(), r#"[{"id":1},]"#, "the body is not JSON: expected a value (at byte 10)")]
#[case(json(), r#"[{"id":1}}"#, "the body is not JSON: expected `,` or `]` (at byte 9)")]
#[case(json(), r#"[,{"id":1}]"#, "the body is not JSON: expected a value (at byte 1)")]
#[case(json(), r#"{"s3cret";1}"#, "the body is not JSON: expected `:` (at byte 9)")]
#[case(json(), r"{s3cret:1}", "the body is not JSON: expected a key (at byte 1)")]
#[case(json(), r#"{"s3cret":1,}"#, "the body is not JSON: expected a key (at byte 12)")]
#[case(json(), r#"[{"id":1},{"id":2,"s3cret":s3cret}]"#, "item 2 is not JSON: expected value (at byte 27)")]
#[case(json(), "[{\"id\":1,\n\n \"s3cret\" 2}]", "item 1 is not JSON: expected `:` (at byte 21)")]
#[case(json(), r#"[{"id":1,"s3cret":[}]"#, "item 1 is not JSON: expected value (at byte 19)")]
#[case(json(), r#"[{"id":01}]"#, "item 1 is not JSON: invalid number (at byte 8)")]
#[case(
    json(),
    "[{\"id\":1,\"s3cret\":\"\t\"}]",
    "item 1 is not JSON: control character (\\u0000-\\u001F) found while parsing a string (at byte 18)"
)]
#[case(json().items_at("$.data.rows"), "[]", "found an array at `$`; `http.decode.itemsPath: $.data.rows` needs an object there (at byte 0)")]
#[case(json().items_at("$.data.rows"), r#"{"s3cret":{}}"#, "found nothing at `$.data`; `http.decode.itemsPath: $.data.rows` needs an object there (at byte 12)")]
#[case(json().items_at("$.data.rows"), r#"{"data":"s3cret"}"#, "found a string at `$.data`; `http.decode.itemsPath: $.data.rows` needs an object there (at byte 8)")]
#[case(json().items_at("$.data.rows"), r#"{"data":null}"#, "found null at `$.data`; `http.decode.itemsPath: $.data.rows` needs an object there (at byte 8)")]
#[case(json().items_at("$.data.rows"), r#"{"data":{"s3cret":1}}"#, "found nothing at `$.data.rows`; `http.decode.itemsPath: $.data.rows` needs an array there (at byte 19)")]
#[case(json().items_at("$.data"), r#"{"data":[],"data":[]}"#, "`$.data` is in the body more than once (at byte 11)")]
#[case(json().items_at("$[1]"), "[[1]]", "found nothing at `$[1]`; `http.decode.itemsPath: $[1]` needs an array there (at byte 4)")]
#[case(
    ndjson(),
    "{\"id\":1}\n[\n",
    "item 2 does not end on its line; if the body is one JSON value over several lines, set `http.decode.format: JSON` (at byte 9)"
)]
#[case(ndjson(), "{\"id\":1}\n  {\"id\":2} s3cret\n", "item 2 is not JSON: trailing characters (at byte 20)")]
#[case(ndjson(), "{\"id\":1}\n<s3cret", "item 2 is not JSON: expected value (at byte 9)")]
fn a_body_that_cannot_be_read_says_where_and_what_to_do(
    #[case] source: Source,
    #[case] body: &str,
    #[case] detail: &str,
) {
    let read = source.reads(body);
    assert_eq!(read.error(), format!("cannot decode the response: {detail}"));
    assert!(!read.error().contains("s3cret"));
}

#[rstest]
#[case(
    json(),
    r#"[{"id":1},{"s3cret":2}]"#,
    "cannot map item 2 of the response: the item is an object with nothing at `$.id`; set `mapping.idPath` to the path of the id"
)]
#[case(
    ndjson(),
    r#"[{"id":1},{"s3cret":2}]"#,
    "cannot map item 1 of the response: the item is an array with nothing at `$.id`; set `mapping.idPath` to the path of the id, or `http.decode.format: JSON` if the body is one array of items"
)]
fn an_item_that_cannot_be_mapped_says_which_and_what_to_do(
    #[case] source: Source,
    #[case] body: &str,
    #[case] text: &str,
) {
    assert_eq!(source.reads(body).error(), text);
}

#[rstest]
#[case::batch(json(), r#"[{"id":"a","type":"paid","data":{"n":1}},{"id":"b","data":[2]}]"#)]
#[case::lines(ndjson(), "{\"id\":\"a\",\"type\":\"paid\",\"data\":{\"n\":1}}\n{\"id\":\"b\",\"data\":[2]}")]
fn the_cloud_events_preset_goes_with_either_format(#[case] source: Source, #[case] body: &str) {
    let read = cloud_events(source).reads(body);
    assert_eq!(read.ids(), ["a", "b"], "{}", read.error());
    assert_eq!(read.payloads(), [r#"{"n":1}"#, "[2]"]);
    assert_eq!(read.events[0].event_type.as_deref(), Some("paid"));
}

#[test]
fn bytes_that_are_no_utf_8_are_found_at_their_place() {
    let read = json().reads(b"[{\"id\":1},{\"id\":2,\"a\":\"\xFF\"}]");
    assert_eq!(read.ids(), ["1"]);
    assert_eq!(read.error(), "cannot decode the response: item 2 is not UTF-8 (at byte 23)");
}

#[rstest]
#[case::cut_short(b"\xEF\xBB [{\"id\":1}]", 2)]
#[case::not_at_the_start(b" \xEF\xBB\xBF[{\"id\":1}]", 1)]
#[case::twice(b"\xEF\xBB\xBF\xEF\xBB\xBF[]", 3)]
#[case::of_utf_16(b"\xFF\xFE[\0]\0", 0)]
fn only_a_whole_byte_order_mark_at_the_start_is_ignored(#[case] body: &[u8], #[case] at: usize) {
    let expected = format!("cannot decode the response: the body is not JSON: expected a value (at byte {at})");
    assert_eq!(json().reads(body).error(), expected);
}

#[test]
fn items_before_a_bad_one_come_first_and_none_after_it() {
    for source in [json().items_at("$.data"), json()] {
        let read = source.reads(r#"{"data":[{"id":1},{"id":2},{"id":null},{"id":4}]}"#);
        assert_eq!(read.ids(), ["1", "2"]);
        assert!(
            read.error().starts_with("cannot map item 3 of the response: found null at `$.id`"),
            "{}",
            read.error()
        );
    }
    let read = ndjson().reads("{\"id\":1}\n{\"id\":2}\n{\"id\":null}\n{\"id\":4}\n");
    assert_eq!(read.ids(), ["1", "2"]);
}

#[test]
fn an_error_stays() {
    let mut page = json().page();
    assert_eq!(page.push(b"[{\"id\":1},!").expect("the item before the error").len(), 1);
    let error = page.push(b"{\"id\":2}]").expect_err("the error");
    assert_eq!(page.push(b"{\"id\":3}").err(), Some(error.clone()));
    assert_eq!(page.finish().err(), Some(error));
}

#[test]
fn an_array_flows_item_by_item() {
    let mut page = json().page();
    assert_eq!(page.push(b"[{\"id\":1},{\"id\"").expect("item 1").len(), 1);
    assert_eq!(page.push(b":2").expect("nothing").len(), 0);
    assert_eq!(page.push(b"}").expect("item 2").len(), 1);
}

#[test]
fn a_prefix_of_the_wrong_array_is_never_handed_out() {
    let first_array = br#"{"warnings":[{"id":7}],"#;
    let mut page = json().page();
    assert_eq!(page.push(first_array).expect("nothing yet").len(), 0);
    let error = page.push(br#""data":[{"id":1}]}"#).expect_err("two arrays");
    assert!(error.to_string().contains("more than one array"), "{error}");

    let read = json().reads(r#"{"warnings":["no id here"],"data":[{"id":1}]}"#);
    assert!(read.error().contains("more than one array"), "the shape counts before the item: {}", read.error());

    let read = json().reads(r#"{"data":[{"id":1},{},{"id":3},{"id"#);
    assert!(read.error().contains("the body ends inside item 4"), "{}", read.error());

    let read = json().reads(first_array);
    assert_eq!((read.ids(), read.error().contains("ends before")), (vec![], true), "nor of a cut object");
}

#[test]
fn an_object_cannot_make_us_hold_items_without_end() {
    let body = |items: usize| format!(r#"{{"data":[{}]}}"#, vec![r#"{"id":1}"#; items].join(","));
    assert_eq!(json().reads(body(100_000)).events.len(), 100_000);
    let read = json().reads(body(100_001));
    assert_eq!(read.events.len(), 0);
    assert!(read.error().contains("more than 100000 items; add `http.decode.itemsPath: $.<name>`"), "{}", read.error());
    assert_eq!(json().items_at("$.data").reads(body(100_001)).events.len(), 100_001);
}

#[test]
fn a_million_levels_are_set_aside_without_recursion() {
    let deep = |levels: usize| format!(r#"{{"id":"7","d":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let body = format!(r#"[{},{{"id":"8"}}]"#, deep(1_000_000));
    for source in [json(), ndjson().id_at("$[0].id")] {
        let read = source.reads_pieces(body.as_bytes().chunks(4096));
        assert_eq!(read.set_aside.len(), 1, "{}", read.error());
        assert_eq!(read.set_aside[0].reason, SetAsideReason::NestedTooDeep);
    }
    let read = json().reads(&body);
    assert_eq!((read.set_aside[0].id.as_str(), read.ids()), ("7", vec!["8"]), "the page goes on");
    assert_eq!(&*read.set_aside[0].item, deep(1_000_000).as_bytes());

    let open = "[".repeat(1_000_000);
    assert!(json().reads(&open).error().contains("ends inside item 1"));
    assert!(ndjson().reads(&open).error().contains("does not end on its line"));
}

#[test]
fn what_is_held_back_or_begun_is_counted_until_it_is_handed_out() {
    let item = format!(r#"{{"id":1,"text":"{}"}}"#, "x".repeat(1000));
    let mut object = json().page();
    object.push(format!(r#"{{"data":[{}"#, vec![&*item; 100].join(",")).as_bytes()).expect("a good body");
    assert!(object.held() > 100 * 1000, "{} bytes for a hundred items", object.held());
    object.push(b"]}").expect("a good body");
    assert_eq!(object.finish().expect("a good body").len(), 100);
    assert!(object.held() < 2000, "they are handed out: {} bytes stay", object.held());

    for (source, end) in [(json(), r#""}]"#), (ndjson(), "\"}\n")] {
        let mut page = source.page();
        let open = if end.ends_with(']') { "[" } else { "" };
        page.push(format!(r#"{open}{{"id":1,"text":"{}"#, "x".repeat(1_000_000)).as_bytes()).expect("a good body");
        assert!(page.held() > 1_000_000, "{} bytes for a begun item", page.held());
        assert_eq!(page.push(end.as_bytes()).expect("a good body").len(), 1);
        assert!(page.held() <= 64 * 1024, "its room is given back: {} bytes stay", page.held());
    }
}

#[test]
fn no_more_is_held_than_one_item() {
    let item = format!(r#"{{"id":1,"text":"{}"}}"#, "x".repeat(280));
    let array = format!(r#"{{"skipped":"{}","data":[{}]}}"#, "y".repeat(100_000), vec![&*item; 10_000].join(","));
    let lines = format!("{item}\n").repeat(10_000);
    for (source, body) in [(json().items_at("$.data"), array), (ndjson(), lines)] {
        let mut page = source.page();
        for piece in body.as_bytes().chunks(100) {
            page.push(piece).expect("a good body");
            let held = page.held();
            assert!(held <= 2 * item.len() as u64, "{held} bytes are held for items of {}", item.len());
            assert_eq!(page.items.ready(), 0, "what is ready has been handed out");
        }
    }
}

#[rstest]
#[case(json().items_at("data"), "http.decode.itemsPath is not valid: a path begins with `$`")]
#[case(ndjson().items_at("$.data"), "http.decode.itemsPath is not valid: only `format: JSON` has a path to its items")]
#[case(json().id_at("$.a..b"), "mapping.idPath is not valid: after `$` a path has only `.name`, `['name']` and `[0]`; character 4 begins none of them")]
fn a_spec_that_makes_no_sense_is_refused_with_its_field(#[case] source: Source, #[case] text: &str) {
    assert_eq!(source.decoder().expect_err("an invalid spec").to_string(), text);
}

//! Objects whose array of items nobody named.

use super::*;
use crate::event::EventId;

#[test]
fn the_first_line_of_many_is_never_taken_for_an_object_with_one_array() {
    for line in [r#"{"id":1,"lines":[{"id":10},{"id":11}]}"#, r#"{"lines":[{"id":10},{"id":11}]}"#] {
        let body = format!("{line}\n{line}\n");
        for piece in [1, line.len(), line.len() + 1, body.len()] {
            let read = json().reads_pieces(body.as_bytes().chunks(piece));
            assert_eq!(read.events.len(), 0, "in pieces of {piece}");
            assert!(read.error().contains("`http.decode.format: NDJSON`"), "{}", read.error());
        }
    }
}

#[test]
fn an_object_hands_nothing_out_before_its_body_has_ended() {
    let mut page = json().page();
    assert_eq!(page.push(br#"{"data":[{"id":1}]}"#).expect("a good body").len(), 0);
    assert_eq!(page.push(b"\n").expect("a good body").len(), 0);
    assert_eq!(page.finish().expect("a good body").len(), 1);
    assert_eq!(page.finish().expect("a good body").len(), 0);
}

#[rstest]
#[case::before_its_array(json(), r#"{"id":12,"lines":[{"id":95}]}"#)]
#[case::behind_its_array(json(), r#"{"lines":[{"id":95}],"\u0069d":"a"}"#)]
#[case::of_an_empty_array(json(), r#"{"id":12,"lines":[]}"#)]
#[case::deep_down(json().id_at("$.meta.ids[1]"), r#"{"meta":{"x":"}","ids":[1,2]},"lines":[{"meta":{"ids":[1,2]}}]}"#)]
#[case::of_cloud_events(cloud_events(json()), r#"{"id":"12","data":[{"id":"95"}]}"#)]
fn an_object_with_an_id_of_its_own_is_no_frame_for_items(#[case] source: Source, #[case] body: &str) {
    for piece in [1, body.len()] {
        let read = source.reads_pieces(body.as_bytes().chunks(piece));
        assert_eq!(read.events.len(), 0);
        for way_out in ["an id of its own", "`http.decode.itemsPath: $.<name>`", "`http.decode.format: NDJSON`"] {
            assert!(read.error().contains(way_out), "{}", read.error());
        }
    }
}

#[rstest]
#[case::null(json(), r#"{"id":null,"data":[{"id":1}]}"#)]
#[case::no_scalar(json(), r#"{"id":{"id":7},"data":[{"id":1}]}"#)]
#[case::further_in(json(), r#"{"meta":{"id":7},"data":[{"id":1}]}"#)]
#[case::half_way(json().id_at("$.meta.id"), r#"{"id":7,"meta":{"page":7},"data":[{"meta":{"id":1}}]}"#)]
#[case::a_namesake_half_way(json().id_at("$.meta.id"), r#"{"meta":7,"data":[{"meta":{"id":1}}]}"#)]
#[case::named(json().items_at("$.data"), r#"{"id":7,"data":[{"id":1}]}"#)]
fn an_object_without_one_is(#[case] source: Source, #[case] body: &str) {
    let read = source.reads(body);
    assert_eq!((read.ids(), read.error()), (vec!["1"], "no error".to_owned()));
}

/// What responses of one source come to, one after the other; the cursor moves with each that is taken.
fn in_turn_if<'a>(
    source: &Source,
    bodies: impl IntoIterator<Item = &'a str>,
    is_taken: impl Fn(&str) -> bool,
) -> Vec<Result<usize, String>> {
    let decoder = source.decoder().expect("a valid spec");
    let mut cursor = 0;
    let mut read = |body: &str| {
        let mut page = decoder.clone().page(&Cursor::After(EventId::new(&cursor.to_string()).expect("an id")));
        let flowed = page.push(body.as_bytes())?.len();
        let items = flowed + page.finish()?.len();
        cursor += usize::from(is_taken(body)) * items;
        Ok(items)
    };
    bodies.into_iter().map(|body| read(body).map_err(|error: FetchError| error.to_string())).collect()
}

fn in_turn<'a>(source: &Source, bodies: impl IntoIterator<Item = &'a str>) -> Vec<Result<usize, String>> {
    in_turn_if(source, bodies, |_| true)
}

#[test]
fn an_array_of_which_nothing_was_taken_does_not_keep_the_right_one_out() {
    let read = in_turn_if(
        &json(),
        [r#"{"warnings":[{"id":"w-1"}]}"#, r#"{"data":[{"id":1}]}"#, r#"{"warnings":[{"id":"w-1"}]}"#],
        |body| !body.contains("warnings"),
    );
    assert_eq!((&read[0], &read[1]), (&Ok(1), &Ok(1)));
    assert!(read[2].as_ref().is_err_and(|error| error.contains("another name")), "{read:?}");
}

#[test]
fn an_array_of_another_name_does_not_take_the_place_of_one_that_held_items() {
    let errors = r#"{"errors":[{"id":"4711"}]}"#;
    let read = in_turn(&json(), [r#"{"data":[]}"#, r#"{"data":[{"id":1}]}"#, errors, r#"{"dat\u0061":[{"id":2}]}"#]);
    assert_eq!((&read[0], &read[1], &read[3]), (&Ok(0), &Ok(1), &Ok(1)));
    let error = read[2].as_ref().expect_err("refused");
    assert!(error.contains("another name") && error.contains("`http.decode.itemsPath: $.<name>`"), "{error}");
    assert!(!error.contains("errors") && !error.contains("4711"), "{error}");

    let unusable = in_turn(&json(), [r#"{"data":[{"id":1}]}"#, r#"{"errors":["no id"]}"#, r#"{"warnings":[]}"#]);
    assert!(unusable[1].as_ref().is_err_and(|error| error.contains("another name")), "{unusable:?}");
    assert_eq!(unusable[2], Ok(0), "an array without items brings nothing that could be wrong");

    let named = in_turn(&json().items_at("$.data"), [r#"{"data":[{"id":1}]}"#, r#"{"x":[],"data":[{"id":2}]}"#]);
    assert_eq!(named, [Ok(1), Ok(1)]);
}

#[test]
fn an_item_that_cannot_be_mapped_puts_the_guess_in_doubt_first() {
    let read = json().reads(r#"{"ids":[1],"result":{"events":[]}}"#);
    let says = "cannot map item 1 of the response: the item is a number with nothing at `$.id`; if the items are elsewhere, add \
                `http.decode.itemsPath: $.<path>` with the path of their array, else set `mapping.idPath` to the path of the id";
    assert_eq!(read.error(), says);
    assert!(!json().reads(r#"[{"no":1}]"#).error().contains("itemsPath"));
    assert!(!json().items_at("$.ids").reads(r#"{"ids":[1]}"#).error().contains("itemsPath"));
}

//! What holds for any body, however it arrives.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{Outcome, Source, json, ndjson};
use crate::fetch::decode::cut::nests_deeper;

/// The text of any JSON value, with what is odd but allowed more often than in life.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-0.0e+1".to_owned()),
        Just("1234567890123456789012345678901234567890".to_owned()),
        any::<i32>().prop_map(|number| number.to_string()),
        string(),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let member = (string(), space(), inner.clone()).prop_map(|(key, space, value)| format!("{key}{space}:{value}"));
        prop_oneof![
            (vec(inner, 0..4), space()).prop_map(|(values, space)| format!("[{space}{}]", values.join(","))),
            (vec(member, 0..4), space()).prop_map(|(members, space)| format!("{{{}{space}}}", members.join(","))),
        ]
    })
}

fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(r#"\""#.to_owned()),
        Just(r"\\".to_owned()),
        Just(r"\u0000".to_owned()),
        Just(r"\ud800".to_owned()),
        Just("]}[{,:".to_owned()),
        Just("é🦀".to_owned()),
        "[a-z]{0,3}",
    ];
    vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// No line feed: the same values stand on the lines of NDJSON.
fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just(""), Just(" "), Just("\t \r")]
}

fn item() -> impl Strategy<Value = String> {
    (any::<u64>(), value()).prop_map(|(id, value)| format!(r#"{{"data":{value},"id":{id}}}"#))
}

/// A source and a body that suits it.
fn page(items: &[String], shape: usize) -> (Source, String) {
    match shape % 4 {
        0 => (json(), format!("[{}]", items.join(" ,\n"))),
        1 => (json(), format!(r#"{{"n":1,"x":{{"y":[]}},"items":[{}],"z":"]"}}"#, items.join(","))),
        2 => (json().items_at("$.a[1].b"), format!(r#"{{"a":[[],{{"b":[{}]}}]}}"#, items.join(","))),
        _ => (ndjson(), items.join("\r\n")),
    }
}

/// The body, cut at any places.
fn pieces<'a>(body: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    cuts.sort_unstable();
    let mut pieces = vec![];
    let mut from = 0;
    for cut in cuts {
        pieces.push(&body[from..cut]);
        from = cut;
    }
    pieces.push(&body[from..]);
    pieces
}

/// Writes other bytes over some of the body.
fn damage(body: &mut Vec<u8>, damages: &[(Index, u8, bool)]) {
    for (at, byte, insert) in damages {
        let at = at.index(body.len() + 1);
        if *insert || at == body.len() {
            body.insert(at, *byte);
        } else {
            body[at] = *byte;
        }
    }
}

/// A byte, most often one that means something to JSON.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => proptest::sample::select(&b"[]{}\",:\\ \n\r0e-tn\xEF\xBB\xBF\x00"[..]),
        1 => any::<u8>(),
    ]
}

fn same(one: &Outcome, other: &Outcome) -> Result<(), TestCaseError> {
    prop_assert_eq!(&one.events, &other.events);
    prop_assert_eq!(&one.set_aside, &other.set_aside);
    prop_assert_eq!(&one.error, &other.error);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_item_comes_out_byte_for_byte(
        items in vec(item(), 0..6), shape in 0_usize..4, cuts in vec(any::<Index>(), 0..8),
    ) {
        let (source, body) = page(&items, shape);
        let read = source.reads_pieces(pieces(body.as_bytes(), &cuts));
        prop_assert_eq!(&read.error, &None);
        prop_assert_eq!(read.payloads(), items);
    }

    #[test]
    fn how_a_body_is_cut_into_pieces_changes_nothing(
        items in vec(item(), 0..4), shape in 0_usize..4, damages in vec((any::<Index>(), byte(), any::<bool>()), 0..4),
        cuts in vec(any::<Index>(), 0..12), other in 0_usize..8,
    ) {
        let (mut source, body) = page(&items, shape);
        let mut body = body.into_bytes();
        damage(&mut body, &damages);
        if other < 4 {
            source = page(&[], other).0;
        }
        let whole = source.reads(&body);
        same(&whole, &source.reads_pieces(pieces(&body, &cuts)))?;
        same(&whole, &source.reads_pieces(body.chunks(1)))?;
    }

    #[test]
    fn a_cut_body_gives_a_prefix_and_an_error(
        items in vec(item(), 1..5), shape in 0_usize..3, cut in any::<Index>(),
    ) {
        let (source, body) = page(&items, shape);
        let read = source.reads(&body.as_bytes()[..cut.index(body.len())]);
        prop_assert!(read.error.is_some());
        prop_assert_eq!(read.payloads(), &items[..read.events.len()]);
    }

    /// What is stored must be JSON to PostgreSQL too: one bad payload fails the statement of many sources.
    #[test]
    fn whatever_comes_in_only_json_comes_out(
        noise in vec(byte(), 0..60), items in vec(item(), 0..3), shape in 0_usize..4,
        damages in vec((any::<Index>(), byte(), any::<bool>()), 0..6),
    ) {
        let (source, body) = page(&items, shape);
        let mut body = body.into_bytes();
        damage(&mut body, &damages);
        for body in [body, noise] {
            for event in source.reads(&body).events {
                let payload = event.payload.as_str();
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(payload).is_ok(), "{payload}");
                prop_assert!(!nests_deeper(payload, 128) && !payload.contains('\0'));
            }
        }
    }
}

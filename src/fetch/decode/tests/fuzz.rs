//! Bodies and paths that nobody would write.

use serde_json::Value;

use super::{Outcome, Source, cloud_events, json, ndjson};
use crate::fetch::{
    decode::path::{Path, Step},
    fuzz::{fuzz, kind},
};

/// Stands in bodies, and must stand in no error.
const UNSPEAKABLE: &str = "hunter2";

const WORDS: &[&str] = &[
    UNSPEAKABLE,
    "\"id\"",
    "\"id\":1",
    "{\"id\":2}",
    "\"data\"",
    "null",
    "true",
    "-0.0e+1",
    "1e400",
    "\\u0000",
    "\\ud800",
    "\\\"",
    "[[",
    "]]",
    "{\"a\":",
    "[]",
    "{}",
    "\u{feff}",
    "\"specversion\":\"1.0\"",
    "\"time\":\"2026-01-01T00:00:00Z\"",
    "\r\n",
];

/// The first byte of an input chooses the spec.
fn source(byte: u8) -> (Source, bool) {
    match byte % 5 {
        0 => (json(), true),
        1 => (json().items_at("$.data"), false),
        2 => (json().items_at("$[0]['a.b'][1]"), false),
        3 => (ndjson(), false),
        _ => (cloud_events(json()), true),
    }
}

fn outcome(read: &Outcome) -> String {
    let error = kind(&read.error());
    format!("{} {} {error}", read.events.len().min(3), read.set_aside.len().min(2))
}

#[test]
fn fuzz_a_body_is_read_the_same_in_any_pieces_and_shown_nowhere() {
    fuzz("decoder", WORDS, |input| {
        let [spec, piece, body @ ..] = input else { return "short".to_owned() };
        let (source, whole_is_json) = source(*spec);
        let read = source.reads(body);
        let pieces = source.reads_pieces(body.chunks(usize::from(*piece).max(1)));
        assert_eq!((&read.events, &read.set_aside), (&pieces.events, &pieces.set_aside));
        assert_eq!(read.error, pieces.error);
        assert!(!read.error().contains(UNSPEAKABLE), "{}", read.error());
        for payload in read.payloads() {
            assert!(serde_json::from_str::<&serde_json::value::RawValue>(payload).is_ok(), "{payload} is no JSON");
            let stands = body.windows(payload.len()).any(|window| window == payload.as_bytes());
            assert!(stands, "{payload} does not stand in the body");
        }
        let array = body.trim_ascii_start().first() == Some(&b'[');
        if whole_is_json && array && read.error.is_none() && read.set_aside.is_empty() {
            serde_json::from_slice::<serde::de::IgnoredAny>(body).expect("what is read without an error is JSON");
        }
        outcome(&read)
    });
}

/// What a path leads to in a value, by another way.
fn found<'a>(value: &'a Value, path: &Path) -> Option<&'a Value> {
    path.steps().iter().try_fold(value, |value, step| match step {
        Step::Name(name) => value.as_object()?.get(name),
        Step::Index(index) => value.as_array()?.get(*index),
    })
}

#[test]
fn fuzz_a_path_is_refused_or_leads_where_it_says() {
    fuzz(
        "paths",
        &["$", ".a", "['a']", "[0]", "['\\u0061']", "\n", "{\"a\":", "[1,", "\"1\"", "é", "'", "\\"],
        |input| {
            let text = String::from_utf8_lossy(input);
            let (path, item) = text.split_once('\n').unwrap_or((&text, "{}"));
            let items = json().items_at(path).decoder().is_ok();
            let (parsed, id) = (Path::parse(path), json().id_at(path));
            assert_eq!(items, parsed.is_ok());
            let parsed = match parsed {
                Err(error) => {
                    assert!(id.decoder().is_err());
                    return kind(&error.to_string());
                }
                Ok(parsed) => parsed,
            };
            assert_eq!(parsed.prefix(parsed.steps().len()), path);
            let read = id.reads(format!("[{item}]"));
            let Ok(values) = serde_json::from_str::<Vec<Value>>(&format!("[{item}]")) else { return outcome(&read) };
            for (event, value) in read.events.iter().zip(&values) {
                let text = match found(value, &parsed).expect("an id was read, so the path leads somewhere") {
                    Value::String(text) => text.clone(),
                    number => number.to_string(),
                };
                // serde_json's numbers are no longer than a u64.
                assert!(event.id.as_str() == text || text.contains(['.', 'e']), "{} is not {text}", event.id.as_str());
            }
            format!("{} steps, {}", parsed.steps().len(), outcome(&read))
        },
    );
}

//! The custom resource against the real API server: every rule, every default, every column.

mod rules;
mod server;

use headgate::api::{
    EventSource, EventSourceSpec, EventSourceStatus, crd,
    event_source::{HolderStatus, Http},
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use rules::{RULES, RuleCase};
use serde_json::{Value, json};
use server::Server;

#[tokio::test]
async fn every_rule_accepts_what_it_should_and_rejects_the_rest() {
    let server = Server::connect().await;
    let mut wrong = Vec::new();
    for case in RULES.iter() {
        if let Err(why) = check(&server, case).await {
            wrong.push(format!("{}: {why}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rules:\n{}", wrong.len(), RULES.len(), wrong.join("\n"));
}

async fn check(server: &Server, case: &RuleCase) -> Result<(), String> {
    let stored = match &case.before {
        Some(before) => Some(server.store(before).await),
        None => None,
    };
    let name = stored.as_deref();
    for accepted in &case.accepted {
        server.would_take(name, accepted).await.map_err(|violations| format!("refused {accepted}: {violations:?}"))?;
    }
    for rejected in &case.rejected {
        let Err(violations) = server.would_take(name, rejected).await else {
            return Err(format!("accepted {rejected}"));
        };
        let [violation] = violations.as_slice() else {
            return Err(format!("more than this rule refused {rejected}: {violations:?}"));
        };
        if violation.field != case.field || !violation.message.contains(case.message) {
            return Err(format!("answered {violation:?}"));
        }
    }
    if let Some(name) = stored {
        server.delete(&name).await;
    }
    Ok(())
}

#[test]
fn every_rule_of_the_definition_has_its_cases() {
    let definition = serde_json::to_value(crd()).expect("plain data");
    let mut rules = Vec::new();
    collect_rules("", &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut rules);
    assert!(!rules.is_empty());
    for (at, message) in &rules {
        let cases = RULES.iter().filter(|case| case.at == at && message.contains(case.message)).count();
        assert_eq!(cases, 1, "cases of the rule at {at:?} that says {message:?}");
    }
    assert_eq!(rules.len(), RULES.len(), "a case has no rule");
    for case in RULES.iter() {
        assert!(!case.accepted.is_empty() && !case.rejected.is_empty(), "{} proves only one side", case.name);
    }
}

fn collect_rules(path: &str, schema: &Value, rules: &mut Vec<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        rules.push((path.to_owned(), rule["message"].as_str().unwrap_or_default().to_owned()));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        collect_rules(&format!("{path}.{name}"), property, rules);
    }
    if schema["items"].is_object() {
        collect_rules(&format!("{path}[]"), &schema["items"], rules);
    }
}

#[tokio::test]
async fn values_outside_the_bounds_of_the_schema_are_refused_by_field() {
    let server = Server::connect().await;
    let long = |length| "x".repeat(length);
    let cases = [
        ("spec.poll.minInterval", json!({"poll": {"minInterval": "1.5s"}})),
        ("spec.poll.minInterval", json!({"poll": {"minInterval": "200"}})),
        ("spec.poll.batchSize", json!({"poll": {"batchSize": 0}})),
        ("spec.poll.batchSize", json!({"poll": {"batchSize": 10_001}})),
        ("spec.epoch", json!({"epoch": -1})),
        ("spec.start.position", json!({"start": {"position": "Latest"}})),
        ("spec.start.afterID", json!({"start": {"position": "AfterID", "afterID": "a\u{0}b"}})),
        ("spec.start.afterID", json!({"start": {"position": "AfterID", "afterID": long(1025)}})),
        ("spec.deletionPolicy", json!({"deletionPolicy": "Orphan"})),
        ("spec.mapping.idPath", json!({"mapping": {"idPath": "$..id"}})),
        ("spec.mapping.idPath", json!({"mapping": {"idPath": "id"}})),
        ("spec.mapping.idPath", json!({"mapping": {"idPath": "$[*].id"}})),
        ("spec.mapping.preset", json!({"mapping": {"idPath": null, "preset": "Debezium"}})),
        ("spec.http.maxResponseBytes", json!({"http": {"maxResponseBytes": 1023}})),
        ("spec.http.limitParam", json!({"http": {"limitParam": long(129)}})),
        ("spec.http.cursor.afterID.param", json!({"http": {"cursor": {"afterID": {"param": ""}}}})),
        ("spec.http.decode.format", json!({"http": {"decode": {"format": "CSV"}}})),
        ("spec.http.query", json!({"http": {"query": vec![json!({"name": "a", "value": "b"}); 33]}})),
        (
            "spec.http.auth.bearer.tokenSecretRef.key",
            json!({"http": {"auth": {"bearer": {"tokenSecretRef": {"name": "orders-api", "key": "a/b"}}}}}),
        ),
    ];
    for (field, spec) in cases {
        let violations = server.would_take(None, &spec).await.expect_err(field);
        assert!(violations.iter().any(|violation| violation.field == field), "{field}: {violations:?}");
    }
}

#[tokio::test]
async fn query_parameters_may_repeat_and_headers_are_merged_by_name() {
    let server = Server::connect().await;
    let twice = json!({"http": {"query": [{"name": "tag", "value": "a"}, {"name": "tag", "value": "b"}]}});
    server.would_take(None, &twice).await.expect("a repeated query parameter is taken");

    let name = server.store(&rules::Before::new(json!({"http": {"headers": [{"name": "X-A", "value": "1"}]}}))).await;
    let other = PatchParams::apply("somebody-else");
    let header = json!({
        "apiVersion": "headgate.dev/v1alpha1", "kind": "EventSource",
        "spec": {"http": {"url": rules::URL, "headers": [{"name": "X-B", "value": "2"}]}},
    });
    let merged = server.sources.patch(&name, &other, &Patch::Apply(header)).await.expect("another owner adds a header");
    let http = merged.spec.http.expect("http");
    assert_eq!(http.headers.iter().map(|header| header.name.as_str()).collect::<Vec<_>>(), ["X-A", "X-B"]);
    server.delete(&name).await;
}

#[tokio::test]
async fn the_api_server_fills_in_the_defaults_of_the_types() {
    let server = Server::connect().await;
    let name = server.store(&rules::Before::new(json!({}))).await;
    let stored = server.sources.get(&name).await.expect("the object");
    assert_eq!(stored.spec, EventSourceSpec::over_http(Http::at(rules::URL)));
    assert_eq!(stored.status, Some(EventSourceStatus::default()));

    let raw = server.raw(&name).await;
    let defaults = json!({
        "suspend": false,
        "epoch": 0,
        "start": {"position": "Earliest"},
        "deletionPolicy": "Retain",
        "poll": {"minInterval": "200ms", "maxIdleInterval": "5s", "maxErrorInterval": "5m", "batchSize": 1000},
        "http": {
            "url": rules::URL,
            "cursor": {"afterID": {"param": "afterId"}},
            "limitParam": "limit",
            "plaintextCredentials": "Deny",
            "decode": {"format": "JSON"},
            "timeout": "30s",
            "maxResponseBytes": 16_777_216,
        },
        "mapping": {"idPath": "$.id"},
    });
    assert_eq!(raw["spec"], defaults, "the stored object shows every default");
    assert_eq!(raw["status"], json!({"observedGeneration": -1}), "not observed yet");
    server.delete(&name).await;
}

#[tokio::test]
async fn what_the_types_write_is_taken_and_read_back_equal() {
    let server = Server::connect().await;
    let mut spec = EventSourceSpec::over_http(Http::at(rules::URL));
    spec.poll.min_interval = std::time::Duration::from_millis(1_500).into();
    spec.poll.max_error_interval = std::time::Duration::from_mins(90).into();
    let mut object = EventSource::new(&Server::fresh_name(), spec);
    object.metadata.namespace = Some(server::NAMESPACE.to_owned());
    let stored = server.sources.create(&kube::api::PostParams::default(), &object).await.expect("the object is taken");
    assert_eq!(stored.spec, object.spec);
    server.delete(object.metadata.name.as_deref().unwrap_or_default()).await;
}

#[tokio::test]
async fn a_full_status_is_taken_and_does_not_move_the_generation() {
    let server = Server::connect().await;
    let name = server.store(&rules::Before::new(json!({}))).await;
    let time = || Time(Timestamp::from_second(1_763_800_000).expect("a time"));
    let status = EventSourceStatus {
        observed_generation: 1,
        observed_epoch: Some(0),
        stream: Some(format!("{}/{name}", server::NAMESPACE)),
        holder: Some(HolderStatus {
            identity: "headgate-7d9c6b5f4-x2x9k.5f3a".to_owned(),
            lease_name: format!("{}.{name}", server::NAMESPACE),
            acquire_time: time(),
        }),
        cursor: Some("1204331".to_owned()),
        events_loaded: Some(1_204_331),
        last_poll_time: Some(time()),
        last_success_time: Some(time()),
        last_event_time: Some(time()),
        next_poll_time: Some(time()),
        lag_seconds: Some(0),
        consecutive_failures: Some(0),
        sample_time: Some(time()),
        last_handled_poll_request: Some("1763800000".to_owned()),
        conditions: vec![Condition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            observed_generation: Some(1),
            last_transition_time: time(),
            reason: "CaughtUp".to_owned(),
            message: "polling every 200ms to 5s".to_owned(),
        }],
    };
    let body = json!({"apiVersion": "headgate.dev/v1alpha1", "kind": "EventSource", "status": status});
    let params = PatchParams::apply("headgate").force().validation_strict();
    let written = server.sources.patch_status(&name, &params, &Patch::Apply(body)).await.expect("the status is taken");
    assert_eq!(written.status, Some(status));
    assert_eq!(written.metadata.generation, Some(1));
    server.delete(&name).await;
}

#[tokio::test]
async fn kubectl_shows_the_columns_of_the_design() {
    let server = Server::connect().await;
    let name = server.store(&rules::Before::new(json!({})).with_cursor("1204331")).await;
    let table = server.table().await;
    let columns: Vec<(String, i64, String)> = table["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|column| {
            let text = |key: &str| column[key].as_str().unwrap_or_default().to_owned();
            let kind = if column["type"] == "date" { "date".to_owned() } else { text("type") };
            (text("name"), column["priority"].as_i64().unwrap_or_default(), kind)
        })
        .collect();
    let expected = [
        ("Name", 0, "string"),
        ("Ready", 0, "string"),
        ("Status", 0, "string"),
        ("Events", 0, "integer"),
        ("Last Event", 0, "date"),
        ("Last Poll", 0, "date"),
        ("Age", 0, "date"),
        ("URL", 1, "string"),
        ("Cursor", 1, "string"),
        ("Holder", 1, "string"),
        ("Message", 1, "string"),
    ];
    assert_eq!(columns, expected.map(|(name, priority, kind)| (name.to_owned(), priority, kind.to_owned())));
    let cells = table["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|row| row["cells"][0] == name.as_str())
        .map(|row| row["cells"].clone())
        .expect("a row for the object");
    assert_eq!((&cells[7], &cells[8]), (&json!(rules::URL), &json!("1204331")));
    server.delete(&name).await;
}

#[tokio::test]
async fn suspended_sources_can_be_selected_by_field() {
    let server = Server::connect().await;
    let suspended = server.store(&rules::Before::new(json!({"suspend": true}))).await;
    let running = server.store(&rules::Before::new(json!({}))).await;
    let listed = server.sources.list(&ListParams::default().fields("spec.suspend=true")).await.expect("a list");
    let names: Vec<_> = listed.items.iter().filter_map(|object| object.metadata.name.as_deref()).collect();
    assert!(names.contains(&suspended.as_str()) && !names.contains(&running.as_str()), "{names:?}");
    server.delete(&suspended).await;
    server.delete(&running).await;
}

#[tokio::test]
async fn the_samples_are_taken_word_for_word() {
    let server = Server::connect().await;
    for (file, text) in [
        ("minimal.yaml", include_str!("../../config/samples/minimal.yaml")),
        ("full.yaml", include_str!("../../config/samples/full.yaml")),
    ] {
        let sample: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let name = sample["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let sources: Api<EventSource> = Api::namespaced(server.client.clone(), server::NAMESPACE);
        let params = PatchParams::apply("samples").force().dry_run().validation_strict();
        sources.patch(&name, &params, &Patch::Apply(&sample)).await.unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

#[test]
fn the_full_sample_names_every_field_but_the_other_members_of_unions() {
    let sample: Value = serde_saphyr::from_str(include_str!("../../config/samples/full.yaml")).expect("YAML");
    let definition = serde_json::to_value(crd()).expect("plain data");
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut missing = Vec::new();
    collect_missing("spec", spec, &sample["spec"], &mut missing);
    let elsewhere = ["spec.http.auth.basic", "spec.http.auth.bearer", "spec.http.auth.header", "spec.mapping.preset"];
    missing.retain(|path| !elsewhere.contains(&path.as_str()));
    assert!(missing.is_empty(), "{missing:?}");
}

fn collect_missing(path: &str, schema: &Value, value: &Value, missing: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match value.get(name) {
            None => missing.push(path),
            Some(value) => collect_missing(&path, property, value, missing),
        }
    }
}

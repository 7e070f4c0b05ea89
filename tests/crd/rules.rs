//! One case per rule of the definition: what it lets pass, what it refuses, and in which words.

#![expect(
    clippy::needless_pass_by_value,
    reason = "the builders take literals; a reference in front of each says nothing"
)]

use std::sync::LazyLock;

use serde_json::{Value, json};

/// The address of the source in every case that does not set one.
pub(crate) const URL: &str = "https://orders.example.com/events";

/// The cases of one rule.
pub(crate) struct RuleCase {
    pub(crate) name: &'static str,
    /// Where the rule stands in the schema.
    pub(crate) at: &'static str,
    /// The stored object that a transition starts from.
    pub(crate) before: Option<Before>,
    pub(crate) accepted: Vec<Value>,
    pub(crate) rejected: Vec<Value>,
    /// The field that the refusal names.
    pub(crate) field: &'static str,
    /// A part of the rule's message that no other rule at the same place has.
    pub(crate) message: &'static str,
}

/// A stored object.
pub(crate) struct Before {
    pub(crate) spec: Value,
    pub(crate) cursor: Option<&'static str>,
}

impl Before {
    pub(crate) fn new(spec: Value) -> Self {
        Self { spec, cursor: None }
    }

    pub(crate) fn with_cursor(self, cursor: &'static str) -> Self {
        Self { cursor: Some(cursor), ..self }
    }
}

impl RuleCase {
    fn at(at: &'static str, name: &'static str) -> Self {
        Self { name, at, before: None, accepted: Vec::new(), rejected: Vec::new(), field: "", message: "" }
    }

    fn from(self, before: Before) -> Self {
        Self { before: Some(before), ..self }
    }

    fn accepts(mut self, spec: Value) -> Self {
        self.accepted.push(spec);
        self
    }

    fn rejects(mut self, spec: Value) -> Self {
        self.rejected.push(spec);
        self
    }

    fn saying(self, field: &'static str, message: &'static str) -> Self {
        Self { field, message, ..self }
    }
}

/// The spec with a URL, unless it has one or names no transport on purpose (`http: null`).
pub(crate) fn with_url(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let members = spec.as_object_mut().expect("a spec is an object");
    match members.entry("http").or_insert_with(|| json!({})) {
        Value::Object(http) => {
            http.entry("url").or_insert_with(|| json!(URL));
        }
        _ => {
            members.remove("http");
        }
    }
    spec
}

fn http(members: Value) -> Value {
    json!({ "http": members })
}

fn secret() -> Value {
    json!({"name": "orders-api", "key": "token"})
}

fn bearer() -> Value {
    json!({"bearer": {"tokenSecretRef": secret()}})
}

fn header_auth(name: &str) -> Value {
    json!({"header": {"name": name, "valueSecretRef": secret()}})
}

fn oauth2(token_url: &str) -> Value {
    json!({"oauth2": {"tokenURL": token_url, "clientIDSecretRef": secret(), "clientSecretSecretRef": secret()}})
}

fn url(url: &str) -> Value {
    http(json!({ "url": url }))
}

fn headers(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"name": name, "value": "x"})).collect()
}

pub(crate) static RULES: LazyLock<Vec<RuleCase>> = LazyLock::new(|| {
    [
        object_rules(),
        poll_rules(),
        http_rules(),
        parameter_rules(),
        url_rules(),
        header_name_rules(),
        auth_rules(),
        body_rules(),
    ]
    .into_iter()
    .flatten()
    .collect()
});

fn object_rules() -> Vec<RuleCase> {
    vec![
        RuleCase::at("", "a name fits a Lease name and a label")
            .accepts(json!({"metadata.name": "n".repeat(63)}))
            .rejects(json!({"metadata.name": "n".repeat(64)}))
            .saying("metadata.name", "`metadata.name` must be no more than 63 characters"),
        RuleCase::at("", "another id needs a new epoch")
            .from(Before::new(json!({})).with_cursor("7"))
            .accepts(json!({"mapping": {"idPath": "$.id", "typePath": "$.type"}}))
            .accepts(json!({"epoch": 1, "mapping": {"idPath": "$.key"}}))
            .accepts(json!({"epoch": 1, "mapping": {"preset": "CloudEvents"}}))
            .rejects(json!({"mapping": {"idPath": "$.key"}}))
            .rejects(json!({"mapping": {"preset": "CloudEvents"}}))
            .saying("spec.mapping", "gives `idPath` or `preset` another value"),
        RuleCase::at("", "another cursor parameter needs a new epoch")
            .from(Before::new(json!({})).with_cursor("7"))
            .accepts(http(json!({"limitParam": "size"})))
            .accepts(json!({"epoch": 1, "http": {"cursor": {"afterID": {"param": "since"}}}}))
            .rejects(http(json!({"cursor": {"afterID": {"param": "since"}}})))
            .saying("spec.http.cursor", "gives `cursor` another value"),
        RuleCase::at(".spec", "one transport")
            .accepts(json!({}))
            .rejects(json!({"http": null}))
            .saying("spec", "exactly one transport must be set: `http`"),
        RuleCase::at(".spec", "an epoch only grows")
            .from(Before::new(json!({"epoch": 3})))
            .accepts(json!({"epoch": 3}))
            .accepts(json!({"epoch": 4}))
            .rejects(json!({"epoch": 2}))
            .saying("spec.epoch", "`epoch` must not decrease"),
        RuleCase::at(".spec", "another start needs a new epoch")
            .from(Before::new(json!({})))
            .accepts(json!({"start": {"position": "Earliest"}}))
            .accepts(json!({"epoch": 1, "start": {"position": "AfterID", "afterID": "7"}}))
            .rejects(json!({"start": {"position": "AfterID", "afterID": "7"}}))
            .saying("spec.start", "gives `start` another value"),
        RuleCase::at(".spec.start", "an id exactly when the position wants one")
            .accepts(json!({"start": {"position": "AfterID", "afterID": "7"}}))
            .accepts(json!({"start": {"position": "Earliest"}}))
            .rejects(json!({"start": {"position": "AfterID"}}))
            .rejects(json!({"start": {"position": "Earliest", "afterID": "7"}}))
            .saying("spec.start.afterID", "`afterID` must be set when, and only when"),
        RuleCase::at(".spec.mapping", "an id path, unless a preset")
            .accepts(json!({"mapping": {"idPath": "$['event id'].v[0]"}}))
            .accepts(json!({"mapping": {"preset": "CloudEvents"}}))
            .rejects(json!({"mapping": {"dataPath": "$.payload"}}))
            .saying("spec.mapping.idPath", "`idPath` must be set"),
        RuleCase::at(".spec.mapping", "a preset stands alone")
            .from(Before::new(json!({})))
            // What the default left behind is what the preset sets; without this nobody could apply a preset later.
            .accepts(json!({"mapping": {"preset": "CloudEvents"}}))
            .accepts(json!({"mapping": {"preset": "CloudEvents", "idPath": "$.id"}}))
            .rejects(json!({"mapping": {"preset": "CloudEvents", "idPath": "$.key"}}))
            .rejects(json!({"mapping": {"preset": "CloudEvents", "dataPath": "$.data"}}))
            .saying("spec.mapping.preset", "`preset` must be the only member"),
    ]
}

fn poll_rules() -> Vec<RuleCase> {
    let poll = |members: Value| json!({ "poll": members });
    vec![
        RuleCase::at(".spec.poll", "never more often than every 200 ms")
            .accepts(poll(json!({"minInterval": "200ms"})))
            .rejects(poll(json!({"minInterval": "199ms"})))
            .rejects(poll(json!({"minInterval": "0s"})))
            .saying("spec.poll.minInterval", "`minInterval` must be greater than or equal to 200ms"),
        RuleCase::at(".spec.poll", "the idle interval starts at the least one")
            .accepts(poll(json!({"minInterval": "5s", "maxIdleInterval": "5s"})))
            .rejects(poll(json!({"minInterval": "5s1ms"})))
            .saying("spec.poll.maxIdleInterval", "`maxIdleInterval` must be greater than or equal to `minInterval`"),
        RuleCase::at(".spec.poll", "an idle source is asked every day")
            .accepts(poll(json!({"maxIdleInterval": "24h"})))
            .rejects(poll(json!({"maxIdleInterval": "24h1ms"})))
            .saying("spec.poll.maxIdleInterval", "`maxIdleInterval` must be no more than 24h"),
        RuleCase::at(".spec.poll", "the error interval starts at the least one")
            .accepts(poll(json!({"minInterval": "5m", "maxIdleInterval": "5m"})))
            .rejects(poll(json!({"minInterval": "5m1ms", "maxIdleInterval": "6m"})))
            .saying("spec.poll.maxErrorInterval", "`maxErrorInterval` must be greater than or equal to `minInterval`"),
        RuleCase::at(".spec.poll", "a failing source is asked every day")
            .accepts(poll(json!({"maxErrorInterval": "24h"})))
            .rejects(poll(json!({"maxErrorInterval": "25h"})))
            .saying("spec.poll.maxErrorInterval", "`maxErrorInterval` must be no more than 24h"),
    ]
}

fn http_rules() -> Vec<RuleCase> {
    let plain = "http://orders.shop.svc/events";
    let from_secret = json!([{"name": "X-Tenant", "valueFrom": {"secretKeyRef": secret()}}]);
    vec![
        RuleCase::at(".spec.http", "no Secret over plain http unless it is allowed")
            .accepts(url(plain))
            .accepts(http(json!({"url": plain, "headers": [{"name": "X-Tenant", "value": "a"}]})))
            .accepts(http(json!({"auth": bearer(), "headers": from_secret, "query": from_secret})))
            .accepts(http(json!({"url": plain, "auth": bearer(), "plaintextCredentials": "Allow"})))
            .rejects(http(json!({"url": plain, "auth": bearer()})))
            .rejects(http(json!({"url": plain, "headers": from_secret})))
            .rejects(http(json!({"url": plain, "query": from_secret})))
            .rejects(http(json!({"url": plain, "tls": {"clientCertSecretRef": {"name": "orders-mtls"}}})))
            .saying("spec.http.plaintextCredentials", "`plaintextCredentials` must be 'Allow'"),
        RuleCase::at(".spec.http", "no client secret over plain http unless it is allowed")
            .accepts(http(json!({"auth": oauth2("https://login.example.com/token")})))
            .accepts(http(json!({"auth": oauth2("http://login.shop.svc/token"), "plaintextCredentials": "Allow"})))
            .rejects(http(json!({"auth": oauth2("http://login.shop.svc/token")})))
            .saying("spec.http.auth.oauth2.tokenURL", "`tokenURL` must be https"),
        RuleCase::at(".spec.http", "one Authorization")
            .accepts(http(json!({"headers": headers(&["Authorization"])})))
            .accepts(http(json!({"headers": headers(&["X-Tenant"]), "auth": bearer()})))
            .rejects(http(json!({"headers": headers(&["authorization"]), "auth": bearer()})))
            .rejects(http(json!({"headers": headers(&["Authorization"]), "auth": header_auth("X-API-Key")})))
            .saying("spec.http.headers", "`headers` must not name Authorization"),
        RuleCase::at(".spec.http", "one header of that name")
            .accepts(http(json!({"headers": headers(&["X-Tenant"]), "auth": header_auth("X-API-Key")})))
            .rejects(http(json!({"headers": headers(&["x-api-key"]), "auth": header_auth("X-API-Key")})))
            .saying("spec.http.headers", "`headers` must not name the header of `auth.header`"),
        RuleCase::at(".spec.http", "a request ends")
            .accepts(http(json!({"timeout": "100ms"})))
            .accepts(http(json!({"timeout": "10m"})))
            .rejects(http(json!({"timeout": "0s"})))
            .rejects(http(json!({"timeout": "10m1s"})))
            .saying("spec.http.timeout", "`timeout` must be from 100ms to 10m"),
    ]
}

/// Who may set the parameters of a request that hold its position and its limit.
fn parameter_rules() -> Vec<RuleCase> {
    vec![
        RuleCase::at(".spec.http", "the query leaves the cursor alone")
            .accepts(http(json!({"query": headers(&["expand"])})))
            .rejects(http(json!({"query": headers(&["expand", "afterId"])})))
            .rejects(http(json!({"query": headers(&["since"]), "cursor": {"afterID": {"param": "since"}}})))
            .saying("spec.http.query", "`query` must not name the cursor's `param`"),
        RuleCase::at(".spec.http", "the query leaves the limit alone")
            .accepts(http(json!({"query": headers(&["limit"]), "limitParam": ""})))
            .rejects(http(json!({"query": headers(&["limit"])})))
            .saying("spec.http.query", "`query` must not name `limitParam`"),
        RuleCase::at(".spec.http", "the url leaves the cursor alone")
            .accepts(url("https://orders.example.com/events?tenant=a"))
            .rejects(url("https://orders.example.com/events?tenant=a&afterId=5"))
            .saying("spec.http.url", "`url` must not name the cursor's `param`"),
        RuleCase::at(".spec.http", "the url leaves the limit alone")
            .accepts(http(json!({"url": "https://orders.example.com/events?limit=5", "limitParam": ""})))
            .rejects(url("https://orders.example.com/events?limit=5"))
            .saying("spec.http.url", "`url` must not name `limitParam`"),
        RuleCase::at(".spec.http", "cursor and limit are two parameters")
            .accepts(http(json!({"limitParam": "afterid"})))
            .rejects(http(json!({"limitParam": "afterId"})))
            .saying("spec.http.limitParam", "`limitParam` must not be the cursor's `param`"),
        RuleCase::at(".spec.http.cursor", "one way to send the position")
            .accepts(http(json!({"cursor": {"afterID": {}}})))
            .rejects(http(json!({"cursor": {}})))
            .saying("spec.http.cursor", "exactly one of these must be set: `afterID`"),
    ]
}

fn url_rules() -> Vec<RuleCase> {
    let token = |token_url: &str| http(json!({"auth": oauth2(token_url), "plaintextCredentials": "Allow"}));
    vec![
        RuleCase::at(".spec.http.url", "an absolute URL")
            .accepts(url("https://orders.example.com"))
            .accepts(url("http://[::1]:8080/events?tenant=a@b"))
            .rejects(url("orders.example.com/events"))
            .rejects(url("/events"))
            .rejects(url("ftp://orders.example.com/events"))
            .rejects(url("https:///events"))
            .rejects(url("https://:8080/events"))
            .saying("spec.http.url", "must be an absolute URL"),
        RuleCase::at(".spec.http.url", "no password in the address")
            .accepts(url("https://orders.example.com/@me/events"))
            .rejects(url("https://user:secret@orders.example.com/events"))
            .rejects(url("https://user@orders.example.com"))
            .saying("spec.http.url", "must not hold user-info"),
        RuleCase::at(".spec.http.url", "no fragment")
            .accepts(url("https://orders.example.com/events%23new"))
            .rejects(url("https://orders.example.com/events#new"))
            .saying("spec.http.url", "must not hold a fragment"),
        RuleCase::at(".spec.http.auth.oauth2.tokenURL", "an absolute URL")
            .accepts(token("http://login.shop.svc/token"))
            .rejects(token("login.example.com/token"))
            .saying("spec.http.auth.oauth2.tokenURL", "must be an absolute URL"),
        RuleCase::at(".spec.http.auth.oauth2.tokenURL", "no password in the address")
            .accepts(token("https://login.example.com/@me/token"))
            .rejects(token("https://id:secret@login.example.com/token"))
            .saying("spec.http.auth.oauth2.tokenURL", "must not hold user-info"),
        RuleCase::at(".spec.http.auth.oauth2.tokenURL", "no fragment")
            .accepts(token("https://login.example.com/token?v=2"))
            .rejects(token("https://login.example.com/token#v2"))
            .saying("spec.http.auth.oauth2.tokenURL", "must not hold a fragment"),
    ]
}

const CONNECTION_HEADERS: [&str; 13] = [
    "Host",
    "Connection",
    "Keep-Alive",
    "Proxy-Authorization",
    "Proxy-Connection",
    "proxy-anything",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Content-Length",
    "Accept-Encoding",
    "hOST",
];

const HEADERS_THAT_CHANGE_THE_ANSWER: [&str; 9] = [
    "Expect",
    "Range",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "IF-RANGE",
    "Headgate-Attempt",
    "headgate-replica",
];

fn header_name_rules() -> Vec<RuleCase> {
    let header = |name: &str| http(json!({"headers": headers(&[name])}));
    let auth = |auth: Value| http(json!({ "auth": auth }));
    let mut names = RuleCase::at(".spec.http.headers", "no header of the connection").accepts(header("Accept"));
    let mut auth_names = RuleCase::at(".spec.http.auth.header.name", "no header of the connection")
        .accepts(auth(header_auth("X-API-Key")));
    for name in CONNECTION_HEADERS {
        names = names.rejects(header(name));
        auth_names = auth_names.rejects(auth(header_auth(name)));
    }
    let mut plain = RuleCase::at(".spec.http.headers", "a plain request for a page")
        .accepts(header("Iffy"))
        .accepts(header("X-Range"));
    let mut auth_plain = RuleCase::at(".spec.http.auth.header.name", "a plain request for a page")
        .accepts(auth(header_auth("X-Headgate-Key")));
    for name in HEADERS_THAT_CHANGE_THE_ANSWER {
        plain = plain.rejects(header(name));
        auth_plain = auth_plain.rejects(auth(header_auth(name)));
    }
    vec![
        plain.saying("spec.http.headers", "Expect, Range, If-*, Headgate-*; remove it"),
        auth_plain.saying("spec.http.auth.header.name", "Expect, Range, If-*, Headgate-*; choose another `name`"),
        names.saying("spec.http.headers", "must not name a header that belongs to the connection"),
        auth_names.saying("spec.http.auth.header.name", "must not be a header that belongs to the connection"),
        RuleCase::at(".spec.http.headers", "a header name")
            .accepts(header("X-!#$%&'*+.^_`|~1"))
            .rejects(header("X Tenant"))
            .rejects(header("X-Tenant:"))
            .rejects(header("X-Größe"))
            .saying("spec.http.headers", "each `name` must be a header name"),
        RuleCase::at(".spec.http.auth.header.name", "a header name")
            .accepts(auth(header_auth("X-API-Key")))
            .rejects(auth(header_auth("X-API-Key\r\nX-Other")))
            .saying("spec.http.auth.header.name", "must be a header name"),
    ]
}

fn auth_rules() -> Vec<RuleCase> {
    let value = |value: &str| http(json!({"headers": [{"name": "X-Tenant", "value": value}]}));
    let auth = |auth: Value| http(json!({ "auth": auth }));
    vec![
        RuleCase::at(".spec.http.headers", "each header once")
            .accepts(http(json!({"headers": headers(&["X-A", "X-B"])})))
            .rejects(http(json!({"headers": headers(&["X-A", "x-a"])})))
            .saying("spec.http.headers", "each `name` must occur once"),
        RuleCase::at(".spec.http.headers", "a value that can be sent")
            .accepts(value("application/json;\tq=0.9"))
            .rejects(value("a\r\nX-Other: b"))
            .rejects(value("größe"))
            .saying("spec.http.headers", "each `value` must be visible ASCII"),
        RuleCase::at(".spec.http.headers[]", "one value")
            .accepts(http(json!({"headers": [{"name": "X-Tenant", "valueFrom": {"secretKeyRef": secret()}}]})))
            .rejects(http(json!({"headers": [{"name": "X-Tenant"}]})))
            .rejects(http(json!({"headers": [
                {"name": "X-Tenant", "value": "a", "valueFrom": {"secretKeyRef": secret()}},
            ]})))
            .saying("spec.http.headers[0]", "exactly one of `value` and `valueFrom` must be set"),
        RuleCase::at(".spec.http.query[]", "one value")
            .accepts(http(json!({"query": [{"name": "tenant", "value": ""}]})))
            .rejects(http(json!({"query": [{"name": "tenant"}]})))
            .saying("spec.http.query[0]", "exactly one of `value` and `valueFrom` must be set"),
        RuleCase::at(".spec.http.auth", "one way to authenticate")
            .accepts(auth(bearer()))
            .accepts(auth(json!({"basic": {"secretRef": {"name": "orders-api"}}})))
            .rejects(auth(json!({})))
            .rejects(auth(json!({
                "bearer": {"tokenSecretRef": secret()}, "basic": {"secretRef": {"name": "orders-api"}},
            })))
            .saying("spec.http.auth", "exactly one of these must be set: `bearer`, `basic`, `header`, `oauth2`"),
    ]
}

fn body_rules() -> Vec<RuleCase> {
    let decode = |members: Value| http(json!({ "decode": members }));
    vec![
        RuleCase::at(".spec.http.decode", "lines have no path to the items")
            .accepts(decode(json!({"format": "JSON", "itemsPath": "$.data.items"})))
            .accepts(decode(json!({"format": "NDJSON"})))
            .rejects(decode(json!({"format": "NDJSON", "itemsPath": "$.data"})))
            .saying("spec.http.decode.itemsPath", "`itemsPath` must only be set when `format` is 'JSON'"),
    ]
}

//! Headers that no user sets: one list, for the API server (CEL) and for objects that went around it.

/// Names and beginnings of names, in lower case.
struct Reserved {
    names: &'static [&'static str],
    prefixes: &'static [&'static str],
}

/// They describe the connection or the message, not the request; a user who sets them breaks the one-request guarantee or
/// the decoding of the answer.
const OF_THE_CONNECTION: Reserved = Reserved {
    names: &[
        "host",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "accept-encoding",
    ],
    prefixes: &["proxy-"],
};

/// Conditions and ranges would turn the answer into something else than a page, and Headgate's own headers tell the source
/// who asks.
const OF_THE_PAGE: Reserved = Reserved { names: &["expect", "range"], prefixes: &["if-", "headgate-"] };

impl Reserved {
    fn includes(&self, name: &str) -> bool {
        self.names.contains(&name) || self.prefixes.iter().any(|prefix| name.starts_with(prefix))
    }

    /// The CEL expression that is true of all others.
    fn excludes(&self, name: &str) -> String {
        let names: Vec<_> = self.names.iter().map(|reserved| format!("'{reserved}'")).collect();
        let begins = |prefix: &&str| format!(" && !{name}.lowerAscii().startsWith('{prefix}')");
        let prefixes: String = self.prefixes.iter().map(begins).collect();
        format!("!({name}.lowerAscii() in [{}]){prefixes}", names.join(", "))
    }
}

/// CEL: whether a header does not belong to the connection.
pub(super) fn sendable_by_users(name: &str) -> String {
    OF_THE_CONNECTION.excludes(name)
}

/// CEL: whether a header leaves a request what it is, a plain request for a page.
pub(super) fn leaves_the_request_plain(name: &str) -> String {
    OF_THE_PAGE.excludes(name)
}

/// Whether Headgate or the protocol sets a header of this name, in whatever case.
#[must_use]
pub fn is_reserved_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    OF_THE_CONNECTION.includes(&name) || OF_THE_PAGE.includes(&name)
}

//! An error for people: the failed action and its causes, in one line.

use std::error::Error;

/// The error and what caused it, separated by colons. Libraries that repeat their cause are not repeated, and those that
/// write several lines (a parser that quotes what it read) get one.
#[must_use]
pub fn in_one_line(error: &dyn Error) -> String {
    let mut line = flat(error);
    let mut next = error.source();
    while let Some(cause) = next {
        let text = flat(cause);
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}

fn flat(error: &dyn Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Said {
        said: &'static str,
        source: Option<Box<Said>>,
    }

    fn said(chain: &[&'static str]) -> Option<Box<Said>> {
        let (first, rest) = chain.split_first()?;
        Some(Box::new(Said { said: first, source: said(rest) }))
    }

    #[test]
    fn every_cause_is_named_once_in_one_line() {
        let error =
            said(&["cannot connect", "service error: refused", "refused", "line 1:\n  what: is\n  ^^^^"]).unwrap();
        assert_eq!(in_one_line(&*error), "cannot connect: service error: refused: line 1: what: is ^^^^");
    }
}

//! Singular queries of RFC 9535, in the grammar of the custom resource: `$`, `.name`, `['name']`, `[0]`.

/// The most steps of a path. Each step of a mapped path reads the value below it once more, so the length bounds what one
/// item can cost, whatever the source sends.
const MOST_STEPS: usize = 32;

/// One step down from a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Name(String),
    Index(usize),
}

/// Leads to at most one value of a JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    text: String,
    steps: Vec<Step>,
    /// Where each step ends in `text`.
    ends: Vec<usize>,
}

/// Why a text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    #[error("a path begins with `$`")]
    NoRoot,
    #[error("after `$` a path has only `.name`, `['name']` and `[0]`; character {0} begins none of them")]
    NoStep(usize),
    #[error("the name at character {0} holds an escape that RFC 9535 does not know")]
    BadEscape(usize),
    #[error("the index at character {0} is too large")]
    LargeIndex(usize),
    #[error("a path has at most {MOST_STEPS} steps")]
    TooLong,
}

impl Path {
    pub(super) fn parse(text: &str) -> Result<Self, PathError> {
        let mut rest = text.strip_prefix('$').ok_or(PathError::NoRoot)?;
        let (mut steps, mut ends) = (Vec::new(), Vec::new());
        while !rest.is_empty() {
            let at = text.len() - rest.len();
            let (step, after) = step(rest, text[..at].chars().count() + 1)?;
            rest = after;
            steps.push(step);
            ends.push(text.len() - rest.len());
        }
        if steps.len() > MOST_STEPS {
            return Err(PathError::TooLong);
        }
        Ok(Self { text: text.to_owned(), steps, ends })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The text of the first steps, as the spec writes them; `$` for none.
    pub(super) fn prefix(&self, steps: usize) -> &str {
        let end = steps.checked_sub(1).and_then(|last| self.ends.get(last));
        end.map_or("$", |end| &self.text[..*end])
    }
}

/// Takes one step off `rest`, which begins at character `at` (from 1) of the path.
fn step(rest: &str, at: usize) -> Result<(Step, &str), PathError> {
    let no_step = PathError::NoStep(at);
    if let Some(rest) = rest.strip_prefix('.') {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Err(no_step);
        }
        Ok((Step::Name(name.to_owned()), rest))
    } else if let Some(rest) = rest.strip_prefix("['") {
        let (name, rest) = rest.split_once('\'').ok_or(no_step)?;
        let rest = rest.strip_prefix(']').ok_or(no_step)?;
        if name.is_empty() {
            return Err(no_step);
        }
        // Both grammars share their escapes; only the quotation mark stands bare between single quotes.
        let name = serde_json::from_str(&format!("\"{}\"", name.replace('"', "\\\""))).ok();
        Ok((Step::Name(name.ok_or(PathError::BadEscape(at))?), rest))
    } else {
        let (index, rest) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).ok_or(no_step)?;
        if index.is_empty() || !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(no_step);
        }
        Ok((Step::Index(index.parse().map_err(|_| PathError::LargeIndex(at))?), rest))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn name(name: &str) -> Step {
        Step::Name(name.to_owned())
    }

    #[rstest]
    #[case("$", vec![])]
    #[case("$.id", vec![name("id")])]
    #[case("$.data.items_2.a-b", vec![name("data"), name("items_2"), name("a-b")])]
    #[case("$[0]['a.b'][12].c", vec![Step::Index(0), name("a.b"), Step::Index(12), name("c")])]
    #[case(r"$['größe \u00e9 \\ /']", vec![name(r"größe é \ /")])]
    #[case(r#"$['"quoted"']"#, vec![name("\"quoted\"")])]
    fn a_path_is_read_step_by_step(#[case] text: &str, #[case] steps: Vec<Step>) {
        let path = Path::parse(text).expect("a path");
        assert_eq!(path.steps(), steps);
        assert_eq!(path.prefix(steps.len()), text, "the text of all steps is the path");
    }

    #[rstest]
    #[case("", PathError::NoRoot)]
    #[case("id", PathError::NoRoot)]
    #[case("$id", PathError::NoStep(2))]
    #[case("$.", PathError::NoStep(2))]
    #[case("$.a.", PathError::NoStep(4))]
    #[case("$..a", PathError::NoStep(2))]
    #[case("$.1a", PathError::NoStep(2))]
    #[case("$.a b", PathError::NoStep(4))]
    #[case("$.*", PathError::NoStep(2))]
    #[case("$[*]", PathError::NoStep(2))]
    #[case("$[-1]", PathError::NoStep(2))]
    #[case("$[]", PathError::NoStep(2))]
    #[case("$['']", PathError::NoStep(2))]
    #[case("$['a'", PathError::NoStep(2))]
    #[case("$[\"a\"]", PathError::NoStep(2))]
    #[case("$['é'].ü", PathError::NoStep(7))]
    #[case(r"$['a\x']", PathError::BadEscape(2))]
    #[case(r#"$['a\"']"#, PathError::BadEscape(2))]
    #[case("$[99999999999999999999999]", PathError::LargeIndex(2))]
    fn a_text_that_is_no_path_is_refused_with_the_place(#[case] text: &str, #[case] error: PathError) {
        assert_eq!(Path::parse(text), Err(error));
    }

    #[test]
    fn a_path_is_no_longer_than_its_items_can_afford() {
        assert!(Path::parse(&format!("${}", ".a".repeat(32))).is_ok());
        assert_eq!(Path::parse(&format!("${}", ".a".repeat(33))), Err(PathError::TooLong));
    }

    #[test]
    fn a_prefix_is_the_text_of_the_spec() {
        let path = Path::parse("$.data['the items'][0]").expect("a path");
        assert_eq!(
            [0, 1, 2, 3].map(|steps| path.prefix(steps)),
            ["$", "$.data", "$.data['the items']", "$.data['the items'][0]"]
        );
    }
}

//! How figures are told: a table that reads well on a terminal and is Markdown.

use std::fmt::Write as _;

use super::machine::Machine;
use crate::checker::SourceFindings;
use crate::proof::{Proof, median};

/// What was measured.
#[derive(Debug)]
pub(super) struct Figure {
    pub title: &'static str,
    /// What was done, in a sentence or two.
    pub scene: String,
    pub rows: Vec<Row>,
    pub proof: Proof,
}

/// One number beside its goal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub what: String,
    pub measured: String,
    pub goal: String,
}

impl Row {
    /// A number with a goal.
    pub(super) fn new(what: impl Into<String>, measured: impl Into<String>, goal: impl Into<String>) -> Self {
        Self { what: what.into(), measured: measured.into(), goal: goal.into() }
    }

    /// A number that explains others.
    pub(super) fn aside(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self::new(what, measured, "")
    }
}

impl Figure {
    pub(super) fn promises_held(&self) -> bool {
        self.proof.findings.clean()
    }

    /// Every broken rule with the lines of the log that show it.
    pub(super) fn violations(&self) -> String {
        self.proof.findings.violations.iter().fold(String::new(), |mut text, violation| {
            let _ = writeln!(text, "{violation}");
            text
        })
    }

    /// Its chapter of the report.
    pub(super) fn chapter(&self) -> String {
        let mut text = format!("\n## {}\n\n{}\n\n", self.title, self.scene);
        let rows: Vec<_> = self.rows.iter().cloned().map(|row| vec![row.what, row.measured, row.goal]).collect();
        table(&mut text, &["", "measured", "goal"], &rows);
        let _ = write!(text, "\n{}\n", verdict(&self.proof));
        text
    }
}

/// Whether every promise held, and in how much.
pub(super) fn verdict(proof: &Proof) -> String {
    let findings = &proof.findings;
    let sum = |of: fn(&SourceFindings) -> u64| findings.sources.values().map(of).sum::<u64>();
    let (requests, delivered) = (sum(|found| found.requests as u64), sum(|found| found.delivered_events));
    let (stored, twice) = (sum(|found| found.stored_events.unwrap_or(0)), sum(|found| found.repeats.total()));
    let counts =
        format!("{requests} requests, {delivered} events transported ({twice} of them again), {stored} stored");
    match findings.violations.len() {
        0 => format!("Every promise held: {counts}."),
        count => format!(
            "**A PROMISE WAS BROKEN, {count} times**: {counts} of {:?} at {} first.",
            findings.violations[0].rule, findings.violations[0].source
        ),
    }
}

/// How the report begins.
pub(super) fn head(machine: &Machine) -> String {
    let mut text = String::from("# Figures\n\n");
    let facts = machine.facts().map(|(name, value)| vec![name.to_owned(), value]);
    table(&mut text, &["machine", ""], &facts);
    text
}

pub(super) fn table(text: &mut String, heads: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].chars().count(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut line = |cells: Vec<&str>| {
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
    };
    line(heads.to_vec());
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(rules.iter().map(String::as_str).collect());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
}

/// The middle and the end of many times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spread {
    pub count: usize,
    pub median_us: u64,
    pub p99_us: u64,
    pub longest_us: u64,
}

impl Spread {
    /// Of these microseconds; none of none.
    pub(super) fn of(mut times: Vec<u64>) -> Option<Self> {
        times.sort_unstable();
        let longest_us = *times.last()?;
        let p99_us = times[(times.len() * 99 / 100).min(times.len() - 1)];
        Some(Self { count: times.len(), median_us: median(&times), p99_us, longest_us })
    }

    /// `median 5.31 s, longest 6.02 s of 200`.
    pub(super) fn in_seconds(self) -> String {
        let [median, longest] = [self.median_us, self.longest_us].map(seconds);
        format!("median {median:.2} s, longest {longest:.2} s of {}", self.count)
    }

    /// `median 1.1 ms, p99 3.0 ms, longest 8.2 ms`.
    pub(super) fn in_milliseconds(self) -> String {
        let [median, p99, longest] = [self.median_us, self.p99_us, self.longest_us].map(|us| 1e3 * seconds(us));
        format!("median {median:.1} ms, p99 {p99:.1} ms, longest {longest:.1} ms")
    }
}

/// Microseconds as seconds, for people.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// A count, for ratios.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::access;
    use crate::checker::{Evidence, check};

    fn figure(gap_ms: u64) -> Figure {
        let accesses = vec![access("orders").at_ms(0).build(), access("orders").at_ms(gap_ms).build()];
        let findings = check(&Evidence { accesses, ..Evidence::default() });
        Figure {
            title: "A figure",
            scene: "Done.".to_owned(),
            rows: vec![Row::new("share", "98.1 %", "97 %"), Row::aside("why", "because")],
            proof: Proof { findings, takeovers: Vec::new(), handovers: Vec::new(), nemeses: Vec::new() },
        }
    }

    #[test]
    fn a_table_is_markdown_and_stands_in_columns() {
        let mut text = String::new();
        table(&mut text, &["", "measured"], &[vec!["share".into(), "98.1 %".into()]]);
        assert_eq!(text, "|       | measured |\n| ----- | -------- |\n| share | 98.1 %   |\n");
    }

    #[test]
    fn a_broken_promise_is_loud_and_fails_the_figure_but_a_missed_goal_does_not() {
        assert!(figure(200).promises_held());
        assert!(verdict(&figure(200).proof).starts_with("Every promise held: 2 requests"));
        assert!(!figure(150).promises_held());
        assert!(verdict(&figure(150).proof).starts_with("**A PROMISE WAS BROKEN, 1 times**"));
    }

    #[test]
    fn a_spread_has_its_middle_and_its_end() {
        let spread = Spread::of((1..=200).rev().collect()).unwrap();
        assert_eq!((spread.median_us, spread.p99_us, spread.longest_us), (100, 199, 200));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}

//! The proof at the end of a run, as a person reads it.

use std::fmt::{self, Write as _};

use crate::checker::{Findings, Nemesis, NemesisKind, Requesters, Rule, Takeover};

/// What a run has shown.
#[derive(Debug)]
pub struct Proof {
    pub findings: Findings,
    /// After SIGKILL, from the kill to the next request of a source.
    pub takeovers: Vec<Takeover>,
    /// After SIGTERM, until the first request of the new holder ([`crate::checker::handovers`]), per source that moved, in
    /// microseconds.
    pub handovers: Vec<u64>,
    /// What was done to the replicas.
    pub nemeses: Vec<Nemesis>,
}

impl Proof {
    /// P1 to P4 held, and there was something to see: this decides the exit code. Takeover times are printed, not judged.
    #[must_use]
    pub fn holds(&self) -> bool {
        const RULES: [Rule; 6] = [Rule::I1, Rule::I2, Rule::I3, Rule::I4, Rule::I5, Rule::I9];
        self.has_seen_requests() && RULES.iter().all(|rule| self.findings.count(*rule) == 0)
    }

    fn verdict(&self, rules: &[Rule]) -> &'static str {
        if rules.iter().any(|rule| self.findings.count(*rule) > 0) {
            "BROKEN"
        } else if self.has_seen_requests() {
            "held"
        } else {
            "unseen"
        }
    }

    fn has_seen_requests(&self) -> bool {
        self.sum(|found| found.requests as u64) > 0
    }

    fn sum(&self, of: impl Fn(&crate::checker::SourceFindings) -> u64) -> u64 {
        self.findings.sources.values().map(of).sum()
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.per_source(f)?;
        writeln!(f)?;
        let overlaps = self.findings.count(Rule::I2);
        let explained = self.sum(|found| found.explained_overlaps as u64);
        let mut p1 = format!("{overlaps} overlaps in {} requests", self.sum(|found| found.requests as u64));
        if explained > 0 {
            write!(p1, "; {explained} with a frozen or dead peer (R3)")?;
        }
        line(f, "P1 one request", self.verdict(&[Rule::I2]), &p1)?;
        let smallest = self.findings.sources.values().filter_map(|found| found.smallest_gap_us).min();
        let smallest = smallest.map_or("no two requests".to_owned(), |gap| format!("smallest {}", milliseconds(gap)));
        let early = self.findings.count(Rule::I1);
        line(f, "P2 the gap", self.verdict(&[Rule::I1]), &format!("{early} gaps below minInterval; {smallest}"))?;
        let waits = self.sum(|found| found.asked_to_wait.0);
        if waits > 0 {
            line(f, "Retry-After", self.verdict(&[Rule::I9]), &self.retries(waits))?;
        }
        line(f, "P3 transported once", self.verdict(&[Rule::I3, Rule::I4]), &self.transported())?;
        let stored = self.sum(|found| found.stored_events.unwrap_or(0));
        let p4 =
            format!("{stored} events stored: {} holes, duplicates or changed payloads", self.findings.count(Rule::I5));
        line(f, "P4 atomic", self.verdict(&[Rule::I5]), &p4)?;
        line(f, "P7 takeover", "shown", &format!("{}; {}", self.after_kills(), self.after_terms()))?;
        if let Some(unexplained) = self.findings.sources.values().filter_map(|found| found.longest_unexplained_us).max()
        {
            let longest = self.findings.sources.values().filter_map(|found| found.longest_wait_us).max().unwrap_or(0);
            let (longest, left) = (seconds(longest), seconds(unexplained));
            let what = format!("the longest wait of a source {longest}; at most {left} of one without a cause");
            line(f, "P7 no standstill", self.verdict(&[Rule::I8]), &what)?;
        }
        if self.findings.sources.values().any(|found| found.requesters != Requesters::default()) {
            line(f, "one holder", self.verdict(&[Rule::I7]), &self.requesters())?;
        }
        if self.nemeses.is_empty() { Ok(()) } else { line(f, "struck", "", &self.struck()) }
    }
}

impl Proof {
    fn per_source(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>9} {:>13} {:>11} {:>11} {:>6}",
            "SOURCE", "REQUESTS", "SMALLEST GAP", "DELIVERED", "STORED", "TWICE"
        )?;
        for (source, found) in &self.findings.sources {
            let gap = found.smallest_gap_us.map_or("-".to_owned(), milliseconds);
            let stored = found.stored_events.map_or("-".to_owned(), |count| count.to_string());
            let (requests, delivered, twice) = (found.requests, found.delivered_events, found.repeats.total());
            writeln!(f, "{source:<12} {requests:>9} {gap:>13} {delivered:>11} {stored:>11} {twice:>6}")?;
        }
        Ok(())
    }

    fn transported(&self) -> String {
        let causes = [
            ("after a kill", self.sum(|found| found.repeats.after_a_kill)),
            ("after a pause", self.sum(|found| found.repeats.after_a_pause)),
            ("after being cut off from database and API server", self.sum(|found| found.repeats.after_being_cut_off)),
            ("lost on the way from the source", self.sum(|found| found.repeats.lost_on_the_way)),
            ("of a response nobody could use", self.sum(|found| found.repeats.of_an_unusable_response)),
            ("sent unasked by the source", self.sum(|found| found.repeats.by_the_source)),
            ("after the cursor was set back", self.sum(|found| found.repeats.after_a_reset)),
            ("unexplained", self.sum(|found| found.repeats.unexplained)),
        ];
        let total: u64 = causes.iter().map(|(_, count)| count).sum();
        let told = causes.iter().filter(|(_, count)| *count > 0).map(|(cause, count)| format!("{count} {cause}"));
        let told = told.collect::<Vec<_>>().join(", ");
        let delivered = self.sum(|found| found.delivered_events);
        if total == 0 {
            format!("none of {delivered} events travelled twice")
        } else {
            format!("{total} of {delivered} events travelled twice: {told}")
        }
    }

    fn retries(&self, waits: u64) -> String {
        let (early, unknown) = (self.findings.count(Rule::I9), self.sum(|found| found.asked_to_wait.1));
        format!("{early} requests too early after {waits} such answers; {unknown} after one that could not be stored")
    }

    fn requesters(&self) -> String {
        let (named, lost) =
            (self.sum(|found| found.requesters.named), self.sum(|found| found.requesters.under_the_fence));
        let (strange, unseen) = (self.findings.count(Rule::I7), self.sum(|found| found.requesters.unseen));
        format!(
            "{strange} requests of others than the Lease names; {named} of the holder, {lost} of one that could not know \
             better, {unseen} while the Leases could not be watched"
        )
    }

    /// A strike on a server is a loss of every replica.
    fn struck(&self) -> String {
        let of = |kinds: &[(&str, NemesisKind)]| {
            let count = |kind| self.nemeses.iter().filter(|nemesis| nemesis.kind == kind).count();
            kinds.iter().map(|(name, kind)| format!("{} {name}", count(*kind))).collect::<Vec<_>>().join(", ")
        };
        let of_one = of(&[
            ("kills", NemesisKind::Killed),
            ("pauses", NemesisKind::Paused),
            ("jumps of the clock", NemesisKind::WrongClock),
        ]);
        let of_lines = of(&[
            ("losses of the sources", NemesisKind::LostSources),
            ("of the way to them", NemesisKind::UnheardBySources),
            ("of the line to the API server", NemesisKind::LostApiServer),
            ("of the database or the line to it", NemesisKind::LostDatabase),
        ]);
        format!("{of_one}; summed over the replicas, {of_lines}")
    }

    fn after_kills(&self) -> String {
        let mut times: Vec<u64> = self.takeovers.iter().filter_map(|takeover| takeover.after_us).collect();
        let told = describe("after kill -9", &mut times, "the goal is 8 s");
        match self.takeovers.len() - times.len() {
            0 => told,
            never => format!("{told}, and {never} that nobody asked again"),
        }
    }

    fn after_terms(&self) -> String {
        describe("after SIGTERM", &mut self.handovers.clone(), "the goal is 0.5 s")
    }
}

fn describe(when: &str, times: &mut [u64], goal: &str) -> String {
    times.sort_unstable();
    match &*times {
        [] => format!("{when}: no source moved"),
        [one] => format!("{when}: {} ({goal})", seconds(*one)),
        [.., last] => {
            format!("{when}: median {}, longest {} of {} ({goal})", seconds(median(times)), seconds(*last), times.len())
        }
    }
}

/// Of sorted times, at least one; of an even number, what lies half-way between the two in the middle.
pub(crate) fn median(sorted: &[u64]) -> u64 {
    sorted[(sorted.len() - 1) / 2].midpoint(sorted[sorted.len() / 2])
}

fn line(f: &mut fmt::Formatter<'_>, promise: &str, verdict: &str, what: &str) -> fmt::Result {
    writeln!(f, "{promise:<20} {verdict:<7} {what}")
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(us: u64) -> String {
    format!("{:.2} s", us as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::access;
    use crate::checker::{Evidence, check};

    fn proof(second_at_ms: u64) -> Proof {
        let accesses = vec![
            access("orders").at_ms(0).after(0).delivering(1, 5).build(),
            access("orders").at_ms(second_at_ms).after(5).build(),
        ];
        let findings = check(&Evidence { accesses, ..Evidence::default() });
        Proof { findings, takeovers: Vec::new(), handovers: vec![310_000], nemeses: Vec::new() }
    }

    #[test]
    fn a_clean_run_holds_and_says_so_for_each_promise() {
        let proof = proof(204);
        assert!(proof.holds());
        let text = proof.to_string();
        assert!(text.contains("P2 the gap           held    0 gaps below minInterval; smallest 204.0 ms"), "{text}");
        assert!(text.contains("none of 5 events travelled twice"), "{text}");
        assert!(text.contains("after SIGTERM: 0.31 s"), "{text}");
    }

    #[test]
    fn the_median_of_an_even_number_of_times_lies_between_the_two_in_the_middle() {
        assert_eq!(
            describe("after it", &mut [3_000_000, 1_000_000], "g"),
            "after it: median 2.00 s, longest 3.00 s of 2 (g)"
        );
        assert_eq!(median(&[1, 2, 9]), 2);
    }

    #[test]
    fn a_run_without_a_request_shows_nothing() {
        let findings = check(&Evidence::default());
        let proof = Proof { findings, takeovers: Vec::new(), handovers: Vec::new(), nemeses: Vec::new() };
        assert!(!proof.holds());
        assert!(!proof.to_string().contains("held"), "{proof}");
    }

    #[test]
    fn takeovers_are_shown_and_what_is_judged_is_that_no_source_stands_still() {
        let at = |ms| access("orders").at_ms(ms).build();
        let seen = |at_ms: u64, longest_wait| {
            let findings = check(&Evidence { accesses: vec![at(0), at(at_ms)], longest_wait, ..Evidence::default() });
            Proof { findings, takeovers: Vec::new(), handovers: Vec::new(), nemeses: Vec::new() }.to_string()
        };
        let text = seen(60_000, None);
        assert!(text.contains("P7 takeover          shown ") && !text.contains("standstill"), "{text}");
        let text = seen(60_000, Some(10_000_000));
        assert!(text.contains("P7 takeover          shown ") && text.contains("P7 no standstill     BROKEN"), "{text}");
        assert!(seen(9_000, Some(10_000_000)).contains("P7 no standstill     held "));
    }

    #[test]
    fn a_broken_promise_is_said_and_decides() {
        let proof = proof(150);
        assert!(!proof.holds());
        assert!(proof.to_string().contains("P2 the gap           BROKEN  1 gaps below minInterval"));
    }
}

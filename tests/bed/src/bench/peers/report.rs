//! The figures of all candidates beside each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::candidate::Candidate;
use super::run::{Ground, PAGE, Run, SOURCES};
use crate::bench::report::table;

/// The runs of one candidate.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub runs: Vec<Run>,
    /// The run in which it was killed.
    pub killed: Option<Run>,
}

impl Measured {
    /// Seconds of CPU of its processes and of PostgreSQL.
    fn cpu_in_all(&self) -> f64 {
        middle(&self.runs, |run| run.cpu + run.postgres).as_secs_f64()
    }

    /// Events per second from the first request to the last row.
    fn rate(&self, ground: &Ground) -> f64 {
        rate(ground, middle(&self.runs, |run| run.loading))
    }
}

/// The middle one of some measure; the upper one of two.
pub(super) fn middle<T: PartialOrd + Copy>(runs: &[Run], of: impl Fn(&Run) -> T) -> T {
    let mut all: Vec<T> = runs.iter().map(of).collect();
    all.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    all[all.len() / 2]
}

/// One run in a line, for whoever watches.
pub(super) fn line(ground: &Ground, run: &Run) -> String {
    format!(
        "{:.1} s from the start, {:.1} s from the first request ({:.0} events/s); CPU {:.1} s and PostgreSQL {:.1} s; {:.0} MiB",
        run.wall.as_secs_f64(),
        run.loading.as_secs_f64(),
        rate(ground, run.loading),
        run.cpu.as_secs_f64(),
        run.postgres.as_secs_f64(),
        run.peak_mib,
    )
}

/// The chapter of the report.
pub(super) fn chapter(ground: &Ground, rounds: usize, measured: &BTreeMap<Candidate, Measured>) -> String {
    let mut text = format!(
        "\n## Beside the alternatives\n\n{} events of 300 bytes wait at {SOURCES} sources that send pages of {PAGE}; medians of {rounds} \
         interleaved rounds, each run with a new PostgreSQL.\n\n",
        ground.events
    );
    let heads = [
        "",
        "events/s from the first request",
        "seconds from start to last row",
        "CPU s of its processes",
        "CPU s of PostgreSQL",
        "both, µs an event",
        "peak MiB",
    ];
    table(&mut text, &heads, &measured.iter().map(|(who, of)| costs(ground, *who, of)).collect::<Vec<_>>());
    text.push('\n');
    let heads =
        ["", "requests", "under 200 ms apart", "sent again", "killed: lost", "killed: doubled", "killed: sent again"];
    let asked = measured.iter().filter(|(who, _)| **who != Candidate::Copy);
    table(&mut text, &heads, &asked.map(|(who, of)| manners(ground, *who, of)).collect::<Vec<_>>());
    let goals = goals(ground, measured);
    if !goals.is_empty() {
        text.push('\n');
        table(&mut text, &["Headgate, one replica", "measured", "goal"], &goals);
    }
    let aside = |of: fn(&Run) -> Duration| {
        measured.values().flat_map(|one| &one.runs).map(of).max().unwrap_or_default().as_secs_f64()
    };
    let _ = writeln!(
        text,
        "\nNot counted above, in the worst run: the fake sources {:.1} s of CPU; etcd and kube-apiserver, which the operator \
         needs, {:.1} s.",
        aside(|run| run.source),
        aside(|run| run.control_plane),
    );
    text
}

fn costs(ground: &Ground, who: Candidate, of: &Measured) -> Vec<String> {
    let seconds = |of: Duration| format!("{:.1}", of.as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let each = 1e6 * of.cpu_in_all() / ground.events as f64;
    let peak = middle(&of.runs, |run| run.peak_mib);
    vec![
        who.title().to_owned(),
        format!("{:.0}", of.rate(ground)),
        seconds(middle(&of.runs, |run| run.wall)),
        seconds(middle(&of.runs, |run| run.cpu)),
        seconds(middle(&of.runs, |run| run.postgres)),
        format!("{each:.1}"),
        if who == Candidate::Copy { "-".to_owned() } else { format!("{peak:.0}") },
    ]
}

fn manners(ground: &Ground, who: Candidate, of: &Measured) -> Vec<String> {
    let mut cells = vec![who.title().to_owned()];
    let requests = |count: fn(&super::requests::Requests) -> u64| {
        middle(&of.runs, |run| run.requests.as_ref().map_or(0, count)).to_string()
    };
    cells.extend([requests(|of| of.count as u64), requests(|of| of.early as u64), requests(|of| of.again)]);
    cells.extend(match of.killed {
        Some(run) => [
            (ground.events - run.distinct).to_string(),
            (run.stored - run.distinct).to_string(),
            run.requests.map_or(0, |requests| requests.again).to_string(),
        ],
        None => ["-"; 3].map(str::to_owned),
    });
    cells
}

/// What was to be reached, where everybody it takes was measured.
fn goals(ground: &Ground, measured: &BTreeMap<Candidate, Measured>) -> Vec<Vec<String>> {
    let Some(own) = measured.get(&Candidate::Headgate) else { return Vec::new() };
    let peers = || measured.iter().filter(|(who, _)| who.is_a_peer()).map(|(_, of)| of);
    let fastest = peers().map(|of| of.rate(ground)).max_by(f64::total_cmp);
    let cheapest = peers().map(Measured::cpu_in_all).min_by(f64::total_cmp);
    let rate_of = |who| measured.get(&who).map(|of| of.rate(ground));
    let goals = [
        ("events/s beside the bare COPY", rate_of(Candidate::Copy).map(|other| own.rate(ground) / other), ">= 0.6"),
        ("events/s beside the fastest peer", fastest.map(|other| own.rate(ground) / other), ">= 2"),
        (
            "events/s beside dlt with its defaults",
            rate_of(Candidate::Dlt).map(|other| own.rate(ground) / other),
            ">= 8",
        ),
        (
            "CPU, PostgreSQL included, beside the cheapest peer",
            cheapest.map(|other| own.cpu_in_all() / other),
            "<= 0.33",
        ),
    ];
    let known = goals.into_iter().filter_map(|(what, ratio, goal)| Some((what, ratio?, goal)));
    known.map(|(what, ratio, goal)| vec![what.to_owned(), format!("{ratio:.2}"), goal.to_owned()]).collect()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn rate(ground: &Ground, time: Duration) -> f64 {
    ground.events as f64 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: u64, cpu: u64) -> Run {
        Run {
            wall: Duration::from_secs(seconds + 1),
            loading: Duration::from_secs(seconds),
            cpu: Duration::from_secs(cpu),
            postgres: Duration::from_secs(1),
            source: Duration::ZERO,
            control_plane: Duration::ZERO,
            peak_mib: 100.0,
            requests: None,
            stored: 1000,
            distinct: 1000,
        }
    }

    fn measured(runs: impl IntoIterator<Item = Run>) -> Measured {
        Measured { runs: runs.into_iter().collect(), killed: None }
    }

    #[test]
    fn goals_compare_medians_with_the_best_of_the_peers() {
        let ground = Ground { binary: "".into(), tools: "".into(), events: 1000 };
        let all = BTreeMap::from([
            (Candidate::Headgate, measured([run(10, 1), run(100, 90), run(9, 1)])),
            (Candidate::Dlt, measured([run(80, 39)])),
            (Candidate::Camel, measured([run(20, 7)])),
            (Candidate::Copy, measured([run(5, 1)])),
        ]);
        let ratios: Vec<String> = goals(&ground, &all).into_iter().map(|row| row[1].clone()).collect();
        assert_eq!(ratios, ["0.50", "2.00", "8.00", "0.25"]);
    }

    #[test]
    fn what_was_doubled_is_not_what_was_lost() {
        let ground = Ground { binary: "".into(), tools: "".into(), events: 1000 };
        let killed = Run { stored: 1200, distinct: 990, ..run(1, 1) };
        let row = manners(&ground, Candidate::Camel, &Measured { runs: vec![run(1, 1)], killed: Some(killed) });
        assert_eq!(row[4..], ["10", "210", "0"]);
    }
}

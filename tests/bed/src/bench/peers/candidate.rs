//! Who loads the backlog.

use clap::ValueEnum;

/// Headgate, what a user would pick instead, and the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Candidate {
    /// One replica of the operator.
    Headgate,
    /// Three of them.
    Fleet,
    /// dlt's `rest_api` source with every default.
    Dlt,
    /// dlt with Arrow tables and COPY.
    DltArrow,
    /// Meltano with tap-rest-api-msdk and target-postgres.
    Meltano,
    /// Apache Camel with SQL batches.
    Camel,
    /// A bare COPY of each page, without any source.
    Copy,
}

impl Candidate {
    /// Its name in the report.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Headgate => "Headgate, one replica",
            Self::Fleet => "Headgate, three replicas",
            Self::Dlt => "dlt rest_api, defaults",
            Self::DltArrow => "dlt, Arrow and COPY",
            Self::Meltano => "Meltano",
            Self::Camel => "Apache Camel",
            Self::Copy => "bare COPY of each page",
        }
    }

    /// How many replicas of the operator it is; none for the others.
    pub(super) fn replicas(self) -> usize {
        match self {
            Self::Headgate => 1,
            Self::Fleet => 3,
            _ => 0,
        }
    }

    /// The folder of its program under benches/peers, and what the program there is given.
    pub(super) fn program(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Dlt => Some(("dlt", "default")),
            Self::DltArrow => Some(("dlt", "arrow")),
            Self::Meltano => Some(("meltano", "")),
            Self::Camel => Some(("camel", "")),
            Self::Headgate | Self::Fleet | Self::Copy => None,
        }
    }

    /// A tool that a user would pick instead.
    pub(super) fn is_a_peer(self) -> bool {
        self.program().is_some()
    }
}

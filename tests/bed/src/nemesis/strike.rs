//! The things that can be done.

use std::fmt;
use std::time::Duration;

use crate::forwarder::{Road, Way};
use crate::source::Fault;

/// What a replica speaks with, each over a line of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    ApiServer,
    Database,
    Sources,
}

/// One thing that is done.
#[derive(Debug, Clone, PartialEq)]
pub enum Strike {
    /// SIGKILL of a replica, which comes back after this.
    Kill { back_after: Duration },
    /// SIGTERM of a replica, and SIGKILL so much later, while it hands its sources off; it comes back after this.
    KillWhileDraining { drained_for: Duration, back_after: Duration },
    /// SIGSTOP of a replica for this long.
    Freeze { lasting: Duration },
    /// SIGTERM of a replica, which comes back after this, or when it has ended.
    Terminate { back_after: Duration },
    /// A further replica runs for this long, and is terminated.
    Join { lasting: Duration },
    /// The lines of a replica to these peers are like this for a while.
    Lines { to: Vec<Peer>, road: Road, lasting: Duration },
    /// The lines of a replica to the API server are cut, and what it sends to PostgreSQL arrives so much later.
    Overtaken { late: Duration, lasting: Duration },
    /// The wall clock of a replica jumps by so many seconds, and back after this. Its monotonic clock goes on.
    ClockJump { seconds: i64, lasting: Duration },
    /// SIGKILL of the API server, which is started after this.
    StopApiServer { lasting: Duration },
    /// SIGKILL of etcd, which is started after this.
    StopEtcd { lasting: Duration },
    /// PostgreSQL is stopped as an administrator would, and started after this.
    StopPostgres { lasting: Duration },
    /// SIGKILL of the postmaster; it is started after this.
    CrashPostgres { lasting: Duration },
    /// One session is ended (`pg_terminate_backend`), the nth of those that there are.
    EndSession { nth: u32 },
    /// SIGKILL of the process of one session: PostgreSQL ends all of them, and recovers.
    KillSession { nth: u32 },
    /// Every request to these sources goes wrong like this for a while.
    Storm { on: Vec<String>, fault: Fault, lasting: Duration },
}

impl Strike {
    /// When everything is there again.
    #[must_use]
    pub fn over_after(&self) -> Duration {
        match self {
            Self::Kill { back_after: after }
            | Self::KillWhileDraining { back_after: after, .. }
            | Self::Terminate { back_after: after } => *after,
            Self::Freeze { lasting }
            | Self::Join { lasting }
            | Self::Lines { lasting, .. }
            | Self::Overtaken { lasting, .. }
            | Self::ClockJump { lasting, .. }
            | Self::StopApiServer { lasting }
            | Self::StopEtcd { lasting }
            | Self::StopPostgres { lasting }
            | Self::CrashPostgres { lasting }
            | Self::Storm { lasting, .. } => *lasting,
            Self::EndSession { .. } | Self::KillSession { .. } => Duration::ZERO,
        }
    }

    /// Whether it ends the process of a replica.
    #[must_use]
    pub fn ends_a_process(&self) -> bool {
        matches!(self, Self::Kill { .. } | Self::KillWhileDraining { .. } | Self::Terminate { .. })
    }

    /// Whether no Lease can be written meanwhile.
    #[must_use]
    pub fn stops_the_api(&self) -> bool {
        matches!(self, Self::StopApiServer { .. } | Self::StopEtcd { .. })
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.over_after().as_secs_f64();
        match self {
            Self::Kill { .. } => write!(f, "SIGKILL, back after {seconds:.3} s"),
            Self::KillWhileDraining { drained_for, .. } => {
                write!(f, "SIGTERM, SIGKILL {} ms later, back after {seconds:.3} s", drained_for.as_millis())
            }
            Self::Freeze { .. } => write!(f, "SIGSTOP for {seconds:.3} s"),
            Self::Terminate { .. } => write!(f, "SIGTERM, back after {seconds:.3} s"),
            Self::Join { .. } => write!(f, "joins, SIGTERM after {seconds:.3} s"),
            Self::Lines { to, road, .. } => {
                let to: Vec<String> = to.iter().map(ToString::to_string).collect();
                write!(f, "lines to {} {} for {seconds:.3} s", to.join(", "), Told(*road))
            }
            Self::Overtaken { late, .. } => write!(
                f,
                "lines to the API server cut, to PostgreSQL slower by {} ms up, for {seconds:.3} s",
                late.as_millis()
            ),
            Self::ClockJump { seconds: by, .. } => {
                write!(f, "its clock jumps by {by:+} s, and back after {seconds:.3} s")
            }
            Self::StopPostgres { .. } => write!(f, "stopped, started after {seconds:.3} s"),
            Self::StopApiServer { .. } | Self::StopEtcd { .. } | Self::CrashPostgres { .. } => {
                write!(f, "SIGKILL, started after {seconds:.3} s")
            }
            Self::EndSession { nth } => write!(f, "session {nth} is ended"),
            Self::KillSession { nth } => write!(f, "SIGKILL of session {nth}"),
            Self::Storm { on, fault, .. } => write!(f, "{fault:?} for {seconds:.3} s: {}", on.join(" ")),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiServer => "the API server",
            Self::Database => "PostgreSQL",
            Self::Sources => "the sources",
        })
    }
}

struct Told(Road);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Road::Open => f.write_str("open"),
            Road::Cut => f.write_str("cut"),
            Road::Slow { up, down } => write!(f, "slower by {} ms up, {} ms down", up.as_millis(), down.as_millis()),
            Road::Swallows(Way::Up) => f.write_str("swallow what is sent"),
            Road::Swallows(Way::Down) => f.write_str("swallow what is answered"),
        }
    }
}

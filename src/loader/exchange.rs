//! SEND, and what runs beside it until the response is over: reading, EXTEND about every second, and COMMIT of the prefix.
//!
//! The three run together in one task. Reading waits for memory, and for the commit of a whole prefix as long as one takes in
//! a database that is well; never for long, so an outage in the middle of a body does not cut the body. Nothing here is cut off
//! by a change of the spec, a handoff or a shutdown.

mod read;

use std::time::Duration;

use read::read;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    append::{Appender, NotAppended, Superseded},
    buffer::Share,
    context::{Cause, Context, IN_FLIGHT},
    extend::{extend_given_up, keep_extending},
    intake::Intake,
    lapse::Lapse,
    pace::Pace,
    prefix::{Finish, Prefix},
    reserve::Grant,
};
use crate::{
    api::event_source::LEAST_MIN_INTERVAL,
    fetch::{Failure, FetchError, Fetcher, PageRequest, Progress},
    mutation::{self, Mutation},
    permit::Attempt,
    store::Row,
};

/// How a request ended.
#[derive(Debug)]
pub(super) enum End {
    /// The permit was spent on something that must come first, and that was read to its end.
    Prepared {
        first_byte: Instant,
    },
    /// A page was read to its end.
    Page {
        first_byte: Instant,
    },
    Failed(Failure),
    /// Neither the row nor the member Lease could be kept, so another replica may be next: the connection is closed.
    Lapsed {
        first_byte: Option<Instant>,
        /// For how long the source may still serve it.
        served_for: Duration,
    },
    /// The row has moved on while the request ran; this is how it stood.
    Superseded(Option<Row>),
}

/// What one exchange did.
pub(super) struct Outcome {
    pub(super) end: End,
    /// The page as it stood at its end.
    pub(super) page: Prefix,
    pub(super) finish: Finish,
    /// Bytes of memory that the page needed.
    pub(super) size: u64,
    pub(super) left: AttemptLeft,
}

/// How the exchange leaves its attempt in the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptLeft {
    /// Closed: the row lets the next request start at this instant.
    Closed { opens: Instant },
    /// Open, and over: no statement is spent on it alone, because the next reservation closes it. The row opens by itself at
    /// `opens`.
    Ended { next_start: Instant, opens: Instant },
    /// Open, and to be closed now, so that the next request may start at this instant.
    Owed { next_start: Instant },
    /// Not to be closed: the source may still be serving, or the row has moved on.
    Open,
}

/// The row of an idle source is left open only where it opens by itself before anybody could come who waits for it: by default a
/// member Lease of 5 s is renewed every 1.5 s, and so declared dead 3.5 s after a crash at the earliest. With a shorter
/// `--lease-duration` the row is what the heir of a crashed replica waits for, for no longer than this.
const OPENS_BY_ITSELF_WITHIN: Duration = Duration::from_millis(3500);

/// One request, from the grant to the last commit.
pub(super) struct Exchange<'a> {
    pub(super) context: &'a Context,
    pub(super) min_interval: Duration,
    pub(super) attempt: Attempt,
    /// When the slot of the grant opens.
    pub(super) opens: Instant,
    /// The row is shut until then, if nothing more is heard.
    pub(super) busy_until: Instant,
    pub(super) stop: &'a CancellationToken,
}

impl Exchange<'_> {
    /// Spends the grant.
    pub(super) async fn run(
        &self,
        grant: Grant,
        fetcher: &mut dyn Fetcher,
        request: &PageRequest,
        page: Prefix,
        share: Share,
    ) -> Outcome {
        let intake = Intake::new(page);
        let mut appender = Appender::new(self.context, self.attempt);
        let lapse = Lapse::of(&grant.permit);
        let guard_opens = self.context.guard().opens(Instant::now());
        sleep_until(guard_opens.max(self.opens)).await;
        let started = Instant::now();
        let before = self.context.guard().last_start();
        let interval = self.context.guard().start(started, self.min_interval, grant.busy_until);
        let (given_up, for_how_long) = oneshot::channel();
        let work = async {
            // Given back with the last commit: what follows a request that was given up may take long, and needs none.
            let mut share = share;
            let reading = async {
                let end = read(self.context, fetcher, grant.permit, request, &intake, &mut share, &lapse).await;
                let took = started.elapsed();
                // Nobody waits for it when the exchange is over.
                let _ = given_up.send(kept_for(&end));
                self.note_end(&end, before);
                (end, took)
            };
            let ((end, took), (), ()) = tokio::join!(
                biased;
                reading,
                commit_prefixes(self.context, &intake, &mut appender, &lapse),
                keep_extending(self.context, self.attempt, &intake, &lapse),
            );
            let end = if intake.is_superseded() { End::Superseded(intake.row()) } else { end };
            if matches!(end, End::Superseded(_)) {
                self.note_end(&end, before);
            }
            if !matches!(&end, End::Failed(Failure { progress: Progress::NeverLeft, .. })) {
                self.count(interval, took);
            }
            self.conclude(end, intake, appender).await
        };
        // Beside the commits and not behind them: the row must not lapse while the source may still be serving.
        let give_up = async {
            if let Some(by) = for_how_long.await.unwrap_or_default() {
                extend_given_up(self.context, self.attempt, by, self.stop).await;
            }
        };
        let (outcome, ()) = tokio::join!(work, give_up);
        outcome
    }

    /// Tells this process's own guard.
    fn note_end(&self, end: &End, start_before: Option<Instant>) {
        let now = Instant::now();
        let mut guard = self.context.guard();
        match end {
            End::Prepared { first_byte } | End::Page { first_byte } => guard.end(*first_byte, self.min_interval),
            End::Superseded(_) => guard.busy_until(now + IN_FLIGHT),
            End::Lapsed { first_byte, served_for } => {
                if let Some(first_byte) = first_byte {
                    guard.not_before(*first_byte + self.min_interval);
                }
                guard.busy_until(now + *served_for);
            }
            End::Failed(Failure { error, progress }) => {
                guard.not_before(now + Pace::obeyed(error.retry_after()));
                match progress {
                    Progress::NeverLeft => guard.never_left(start_before),
                    Progress::ReadToEnd { first_byte } => guard.end(*first_byte, self.min_interval),
                    Progress::MayBeServed { first_byte } => {
                        if let Some(first_byte) = first_byte {
                            guard.not_before(*first_byte + self.min_interval);
                        }
                        guard.busy_until(now + served_for(error));
                    }
                }
            }
        }
    }

    /// `took` ends with the response: a commit that an outage holds up is no part of it.
    fn count(&self, interval: Option<Duration>, took: Duration) {
        let metrics = self.context.metrics();
        metrics.request_duration.observe(took.as_secs_f64());
        if let Some(interval) = interval {
            metrics.request_interval.observe(interval.as_secs_f64());
            if interval < LEAST_MIN_INTERVAL {
                metrics.gate_violations.inc();
            }
        }
        self.context.reporter.note(|report| report.last_interval = interval);
    }

    /// Commits what is left of the page, and closes the attempt where that is allowed: its response was read to the end,
    /// or it provably never left.
    async fn conclude(&self, end: End, intake: Intake, mut appender: Appender<'_>) -> Outcome {
        let size = intake.size();
        let mut page = intake.into_page();
        let outcome = |end, page, finish, left| Outcome { end, page, finish, size, left };
        if matches!(end, End::Superseded(_)) {
            self.context.count_retransported(Cause::Superseded, page.abandon());
            return outcome(end, page, Finish::default(), AttemptLeft::Open);
        }
        let mut finish = page.finish(matches!(end, End::Page { .. }));
        self.context.count_retransported(Cause::Unusable, finish.dropped);
        self.context.count_retransported(Cause::RepeatedBySource, page.repeats());
        let next_start = self.next_start(&end);
        let open = next_start.map_or(AttemptLeft::Open, |next_start| AttemptLeft::Owed { next_start });
        if let (End::Page { .. }, Some(next_start)) = (&end, next_start)
            && page.has_nothing_for_the_row()
            && let Some(opens) = self.opens_by_itself()
        {
            appender.nothing_came();
            return outcome(end, page, finish, AttemptLeft::Ended { next_start, opens });
        }
        match self.commit_rest(&mut page, &mut finish, &mut appender, &end, next_start).await {
            Ok(row_opens) => outcome(end, page, finish, row_opens.map_or(open, |opens| AttemptLeft::Closed { opens })),
            Err(Superseded { row }) => {
                self.context.count_retransported(Cause::Superseded, page.abandon());
                outcome(End::Superseded(row), page, finish, AttemptLeft::Open)
            }
        }
    }

    /// When the row opens though nobody closes it, if that may be left to it.
    fn opens_by_itself(&self) -> Option<Instant> {
        let now = Instant::now();
        // No later than RESERVE has written, or the last EXTEND.
        let opens = self.busy_until.max(now + IN_FLIGHT) + self.min_interval;
        (!self.stop.is_cancelled() && opens <= now + OPENS_BY_ITSELF_WITHIN).then_some(opens)
    }

    /// The appends after the end of a response. Where there is a `next_start`, the last one closes the attempt. Returns when the
    /// row then opens.
    async fn commit_rest(
        &self,
        page: &mut Prefix,
        finish: &mut Finish,
        appender: &mut Appender<'_>,
        end: &End,
        next_start: Option<Instant>,
    ) -> Result<Option<Instant>, Superseded> {
        let mut row_opens = None;
        let mut nothing_left = !page.has_pending();
        while page.has_pending() {
            let batch = page.take();
            let next_start = next_start.filter(|_| batch.ends_page);
            match appender.append(batch, next_start).await {
                Ok(committed) => {
                    page.stands_at(committed.cursor);
                    row_opens = committed.row_opens;
                }
                Err(NotAppended::Undecided(batch)) => page.give_back(&batch),
                Err(NotAppended::Overlaps(batch, why)) => {
                    self.context.count_retransported(Cause::Unusable, page.overlaps(&batch, why));
                    finish.rejected = Some(why.error());
                    nothing_left = true;
                }
                Err(NotAppended::Superseded(superseded)) => return Err(superseded),
            }
        }
        if nothing_left && (page.is_out_of_order() || matches!(end, End::Page { .. })) {
            row_opens = appender.append_nothing(page.take(), next_start).await;
        }
        Ok(row_opens)
    }

    /// When the next request may start, if the attempt may be closed.
    fn next_start(&self, end: &End) -> Option<Instant> {
        match end {
            End::Prepared { first_byte } | End::Page { first_byte } => Some(*first_byte + self.min_interval),
            End::Failed(Failure { error, progress }) => match progress {
                Progress::NeverLeft => Some(self.opens),
                Progress::ReadToEnd { first_byte } => {
                    let asked_to_wait = Instant::now() + Pace::obeyed(error.retry_after());
                    Some(asked_to_wait.max(*first_byte + self.min_interval))
                }
                Progress::MayBeServed { .. } => None,
            },
            End::Lapsed { .. } | End::Superseded(_) => None,
        }
    }
}

/// For how long the row keeps others away from a source that may still be serving a request that was given up. It cannot be closed
/// with the wait that the source asked for, so the deadline carries that.
fn kept_for(end: &End) -> Option<Duration> {
    match end {
        End::Lapsed { served_for, .. } => Some(*served_for),
        End::Failed(Failure { error, progress: Progress::MayBeServed { .. } }) => {
            Some(served_for(error).max(Pace::obeyed(error.retry_after())))
        }
        _ => None,
    }
}

/// How long a source may go on with a request after this failure.
fn served_for(error: &FetchError) -> Duration {
    match error {
        FetchError::Timeout { after }
        | FetchError::NoRoomInTime { after, .. }
        | FetchError::GatewayTimeout { after, .. } => IN_FLIGHT.max(*after),
        _ => IN_FLIGHT,
    }
}

/// Progressive commit, as long as the response goes on.
async fn commit_prefixes(context: &Context, intake: &Intake, appender: &mut Appender<'_>, lapse: &Lapse) {
    if mutation::is(Mutation::WholeBodies) {
        return;
    }
    while let Some(batch) = intake.next_prefix().await {
        let bytes = batch.bytes;
        let issued = Instant::now();
        match appender.append_prefix(batch).await {
            Ok(committed) => {
                // It extends too: while it holds the lock of the row, no EXTEND gets through.
                lapse.extended(issued);
                intake.committed(bytes, committed.cursor);
            }
            Err(NotAppended::Superseded(Superseded { row })) => return intake.supersede(row),
            Err(NotAppended::Undecided(batch)) => intake.give_back(&batch),
            Err(NotAppended::Overlaps(batch, why)) => {
                context.count_retransported(Cause::Unusable, intake.overlaps(&batch, why));
                return;
            }
        }
    }
}

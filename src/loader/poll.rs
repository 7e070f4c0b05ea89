//! One pass of one source. The loop of `task` is only the repetition of [`Poller::run_once`].

mod judge;

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    buffer::{PageSize, Share},
    context::Context,
    exchange::{AttemptLeft, Exchange, Outcome},
    guard::Owed,
    pace::Pace,
    prefix::Prefix,
    report::BlockedBy,
    reserve::{Grant, LEAD, Reservations, check_guard},
    settings::Settings,
};
use crate::{
    event::{Cursor, IdKind},
    fetch::{FetchError, Fetcher, OpenError, PageRequest},
    permit::Attempt,
    store::{Adopted, Patience},
};

/// How long a source may hold memory while it connects again: a handshake with a source that is well.
const CONNECT_WITH_SHARE: Duration = Duration::from_millis(200);

/// The most memory that is held while a reservation waits for others.
const PATIENT_SHARE: u64 = 64 * 1024;

/// How long whoever stops waits for the row to be closed: many times what it takes in a database that is well. One that is
/// away keeps the next holder from adopting too.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// What a pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// The next pass is due at this instant.
    Again(Instant),
    /// The source refused the credentials, or the handshake with it failed: read them again, then go on at this instant.
    Refused(Instant),
    /// The row is mine but not as I know it: adopt it again.
    Readopt,
    /// Another holder has adopted the row.
    FencedOff,
    /// Told to stop before anything was sent.
    Stopped,
}

impl Pass {
    pub(super) fn wait_for_gate(context: &Context, until: Instant) -> Self {
        context.reporter.blocked_by(Some(BlockedBy::Gate));
        Self::Again(until)
    }
}

/// Polls one adopted source.
pub(super) struct Poller {
    context: Context,
    fetcher: Box<dyn Fetcher>,
    settings: Settings,
    cursor: Cursor,
    kind: Option<IdKind>,
    progressive: bool,
    reservations: Reservations,
    pace: Pace,
    page_size: PageSize,
    /// An attempt that is over: the next reservation closes it. And when the row opens by itself.
    ended: Option<(Owed, Instant)>,
    /// A kept connection was found closed, and neither a page nor a failure has come since.
    asks_again: bool,
    /// How much before its due time the next RESERVE is issued; it may wait that long to share a statement.
    patience: Duration,
    /// When the next request was due, for the metric of waiting.
    due: Instant,
    polls: u64,
    /// When the Lease was won, until the first reservation is granted or the source cannot be connected to.
    won: Option<Instant>,
    rng: StdRng,
}

/// What may cut a pass short before its request is sent; nothing does afterwards.
pub(super) struct Signals {
    /// The task is to end. It cancels the others too.
    pub(super) stop: CancellationToken,
    /// Another spec is to run: what this one waits for is of no use.
    pub(super) replaced: CancellationToken,
    /// Somebody waits for the pass, so it waits for nobody.
    pub(super) hurry: CancellationToken,
}

impl Signals {
    pub(super) fn below(stop: &CancellationToken) -> Self {
        Self { stop: stop.clone(), replaced: stop.child_token(), hurry: stop.child_token() }
    }
}

impl Poller {
    pub(super) fn new(
        context: Context,
        fetcher: Box<dyn Fetcher>,
        settings: Settings,
        adopted: &Adopted,
        won: Option<Instant>,
        rng: StdRng,
    ) -> Self {
        let now = Instant::now();
        let mut rng = rng;
        {
            let mut guard = context.guard();
            // The waits of an attempt that this process owes end when it is closed, which it is before the next reservation.
            // If what stands in the row is not that attempt, the row itself refuses the reservation.
            if guard.owed().is_none() {
                guard.not_before(now + adopted.starts_in.max(adopted.in_flight_for));
            }
        }
        Self {
            reservations: Reservations::new(adopted.fence, settings.min_interval, StdRng::from_rng(&mut rng)),
            pace: Pace::new(&settings),
            page_size: PageSize::default(),
            cursor: adopted.cursor.clone(),
            kind: adopted.id_kind,
            progressive: adopted.progressive && !context.guard().is_out_of_order(),
            context,
            fetcher,
            settings,
            ended: None,
            asks_again: false,
            patience: Duration::ZERO,
            due: now,
            polls: 0,
            // An attempt in flight holds up a takeover. The pace of the source and its `Retry-After` do not: they go on.
            won: won.map(|won| won + adopted.starts_in.saturating_sub(adopted.in_flight_for)),
            rng,
        }
    }

    /// Gives the fetcher back, with its connection.
    pub(super) fn into_fetcher(self) -> Box<dyn Fetcher> {
        self.fetcher
    }

    /// How often the source was asked for events so far.
    pub(super) fn polls(&self) -> u64 {
        self.polls
    }

    /// Whether the last answer of the source was a failure, or there was none.
    pub(super) fn is_failing(&self) -> bool {
        self.pace.failures() > 0
    }

    pub(super) async fn reload_credentials(&mut self) -> Result<bool, OpenError> {
        self.fetcher.reload_credentials().await
    }

    /// One pass: connect, take memory, reserve, send and read, append, and say when the next pass is due.
    pub(super) async fn run_once(&mut self, signals: &Signals) -> Pass {
        let pass = match self.grant(signals).await {
            Ok((grant, share)) => self.spend(grant, share, &signals.stop).await,
            Err(pass) => pass,
        };
        if let Pass::Again(at) | Pass::Refused(at) = pass {
            let wait = at.saturating_duration_since(Instant::now());
            self.context.reporter.next_poll_in(if self.pace.is_saturated() { wait + LEAD } else { wait });
        }
        pass
    }

    /// CONNECT, memory, RESERVE. A source that cannot connect holds no memory, and one without memory no reservation.
    async fn grant(&mut self, Signals { stop, replaced, hurry }: &Signals) -> Result<(Grant, Share), Pass> {
        // Before the guard is asked: what an earlier task of this process owes may be the very wait it asks for.
        // A stop does not wait for it: the row opens at its deadline, and an ABORT may stand behind many when a database is away.
        self.reservations.keeps_expiring = self.pace.keeps_expiring();
        let settled = stop.run_until_cancelled(self.reservations.settle(&self.context)).await.ok_or(Pass::Stopped)?;
        if !settled {
            return Err(Pass::Again(Instant::now() + self.reservations.retry_in()));
        }
        check_guard(&self.context)?;
        let Some(prepared) = replaced.run_until_cancelled(self.prepare()).await else {
            self.context.reporter.blocked_by(None);
            return Err(if stop.is_cancelled() { Pass::Stopped } else { Pass::Again(Instant::now()) });
        };
        let share = prepared?;
        let (ended, ahead) = (self.ended.map(|(ended, _)| ended), self.pace.is_saturated());
        // Not cut by a stop, only hurried: a reservation whose answer nobody hears keeps the next holder waiting for its deadline.
        let patience = Patience { longest: self.take_patience(&share, hurry), ends: hurry.clone() };
        let grant = self.reservations.reserve(&self.context, &self.cursor, ended, ahead, patience).await?;
        self.ended = None;
        // A grant that came too late each time says nothing new; the exchange will tell.
        if !self.pace.keeps_expiring() {
            self.context.reporter.database_answers();
            self.context.reporter.blocked_by(None);
        }
        if stop.is_cancelled() {
            self.close(grant.attempt, grant.permit.opens(), stop).await;
            return Err(Pass::Stopped);
        }
        if let Some(won) = self.won.take() {
            self.context.metrics().takeover_duration.observe(won.elapsed().as_secs_f64());
        }
        Ok((grant, share))
    }

    /// Somebody may wait for a poll that was asked for, and others for much memory, which a large page takes, or one that is to be
    /// held whole.
    fn take_patience(&mut self, share: &Share, hurry: &CancellationToken) -> Duration {
        let patience = std::mem::take(&mut self.patience);
        if hurry.is_cancelled() || share.bytes() > PATIENT_SHARE { Duration::ZERO } else { patience }
    }

    async fn spend(&mut self, grant: Grant, share: Share, stop: &CancellationToken) -> Pass {
        let attempt = grant.attempt;
        let outcome = self.exchange(grant, share, stop).await;
        match outcome.left {
            AttemptLeft::Closed { .. } | AttemptLeft::Open => {}
            AttemptLeft::Ended { next_start, opens } => self.ended = Some((Owed { attempt, next_start }, opens)),
            AttemptLeft::Owed { next_start } => self.close(attempt, next_start, stop).await,
        }
        let pass = self.judge(outcome);
        if self.pace.is_saturated() {
            // A source that closes its connections gets the next one while the gap passes. A failure shows in the next
            // pass, which connects again.
            let connecting = timeout(self.fetcher.timeout(), self.fetcher.connect());
            if let Some(Ok(Err(error))) = stop.run_until_cancelled(connecting).await {
                self.note_asked_to_wait(&error);
            }
        }
        pass
    }

    /// What a token endpoint asks for while a connection is made is said to nobody else: no row is reserved.
    fn note_asked_to_wait(&self, error: &FetchError) {
        self.context.guard().not_before(Instant::now() + Pace::obeyed(error.retry_after()));
    }

    /// ABORT of an attempt that is not in flight; if the row does not answer, before the next reservation. A wait that the
    /// source asked for must hold for every replica, so as long as it lasts the row is asked again, but for a stop.
    async fn close(&mut self, attempt: Attempt, next_start: Instant, stop: &CancellationToken) {
        self.context.guard().owe(Owed { attempt, next_start });
        while !self.reservations.settle(&self.context).await {
            let left = next_start.saturating_duration_since(Instant::now());
            let retry = sleep(self.reservations.retry_in().min(left));
            if left.is_zero() || stop.run_until_cancelled(retry).await.is_none() {
                return;
            }
        }
        if !self.pace.keeps_expiring() {
            self.context.reporter.database_answers();
        }
    }

    /// Closes what the next reservation would have closed, for whoever comes next. Not for long: the row opens by itself soon,
    /// and a database that is away is to hold up no handoff.
    pub(super) async fn leave(&mut self, stop: &CancellationToken) {
        let Some((Owed { attempt, next_start }, opens)) = self.ended.take() else { return };
        if Instant::now() >= opens {
            return;
        }
        let closing = async {
            // What a lost answer has left owed may have taken the place of this one, or never have come to the row.
            if self.reservations.settle(&self.context).await {
                self.close(attempt, next_start, stop).await;
            }
        };
        let _ = timeout(LEAVE_WITHIN, closing).await;
    }

    async fn prepare(&mut self) -> Result<Share, Pass> {
        self.connect().await?;
        self.take_memory().await
    }

    async fn connect(&mut self) -> Result<(), Pass> {
        let limit = self.fetcher.timeout();
        let connected = timeout(limit, self.fetcher.connect()).await;
        match connected.unwrap_or(Err(FetchError::Timeout { after: limit })) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.won = None;
                self.note_asked_to_wait(&error);
                self.context.count_request(error.label());
                // What keeps it from being asked is its source now.
                if self.pace.keeps_expiring() || self.reservations.row_stays_locked() {
                    self.context.reporter.database_answers();
                }
                Err(self.fail(&error))
            }
        }
    }

    /// A stream whose pages must be held whole takes what the largest one may need; any other what its pages were like.
    /// Neither takes much of the budget before a byte has come.
    async fn take_memory(&mut self) -> Result<Share, Pass> {
        let largest = self.settings.max_response_bytes;
        let bytes = if self.progressive { self.page_size.expected(largest) } else { largest };
        let buffer = self.context.shared.buffer.clone();
        let bytes = bytes.min(buffer.most_before_a_byte());
        let mut with_share = CONNECT_WITH_SHARE;
        loop {
            if let Some(share) = buffer.try_take(bytes) {
                return Ok(share);
            }
            self.context.reporter.blocked_by(Some(BlockedBy::Memory));
            let share = buffer.take(bytes).await;
            self.context.reporter.blocked_by(None);
            // The connection may have died while we waited. Others wait for the share meanwhile, so a slow source connects
            // without it, and waits again.
            match timeout(with_share, self.connect()).await {
                Ok(connected) => return connected.map(|()| share),
                Err(_) => drop(share),
            }
            // A server that closes what is not used loses the place in the line again; not for ever.
            with_share *= 2;
            self.connect().await?;
        }
    }

    async fn exchange(&mut self, grant: Grant, share: Share, stop: &CancellationToken) -> Outcome {
        let limit = self.pace.limit();
        let sent_limit = self.settings.limit_is_sent.then_some(limit);
        let page = Prefix::new(self.cursor.clone(), self.kind, sent_limit, self.progressive);
        let request = PageRequest { after: self.cursor.clone(), limit };
        let exchange = Exchange {
            context: &self.context,
            min_interval: self.settings.min_interval,
            attempt: grant.attempt,
            opens: grant.permit.opens(),
            busy_until: grant.busy_until,
            stop,
        };
        self.context.metrics().gate_wait.observe(grant.permit.opens().duration_since(self.due).as_secs_f64());
        exchange.run(grant, &mut *self.fetcher, &request, page, share).await
    }
}

#[cfg(test)]
mod tests;

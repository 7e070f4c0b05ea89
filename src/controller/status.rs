//! The status of an EventSource, from what its holder saw and what stood there before. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::sample::View;
use crate::{
    api::{
        AssignedReason, EventSourceStatus,
        conditions::{CAUGHT_UP, Facts, READY, conditions, to_second},
        event_source::HolderStatus,
    },
    clock::Moment,
};

/// A next poll that is nearer than this is over before anybody reads of it.
const NEXT_POLL_WORTH_TELLING: SignedDuration = SignedDuration::from_secs(30);

/// How seldom a source that is well is written where a replica holds thousands of them.
const WRITTEN_WITHIN: SignedDuration = SignedDuration::from_hours(1);

/// What a replica says of the sources that it leaves to nobody.
const LEFT: &str = "its replica stopped and no other took it over; it runs again once a replica of Headgate is running";

/// The whole status, as the holder is to write it.
///
/// What the holder does not know yet it keeps: a source that moved to another replica does not lose its cursor, its times
/// and its conditions until the new holder has adopted the row and asked.
///
/// `now` is for people; the lag of what this replica saw itself goes by `moment`.
pub(super) fn compose(view: &View, previous: &EventSourceStatus, now: Timestamp, moment: Moment) -> EventSourceStatus {
    let report = &view.report;
    let adopted = report.epoch.is_some();
    let conditions = conditions(&facts(view), &previous.conditions, now);
    EventSourceStatus {
        observed_generation: report.generation,
        observed_epoch: report.epoch.map(|epoch| epoch.0).or(previous.observed_epoch),
        stream: Some(report.holding.stream.as_str().to_owned()),
        holder: (!view.leaving).then(|| HolderStatus {
            identity: report.holding.holder.as_str().to_owned(),
            lease_name: report.holding.lease_name.clone(),
            acquire_time: to_second(report.holding.acquired_at),
        }),
        cursor: if adopted {
            report.cursor.as_ref().and_then(|cursor| cursor.id()).map(ToString::to_string)
        } else {
            previous.cursor.clone()
        },
        events_loaded: if adopted { i64::try_from(report.events_stored).ok() } else { previous.events_loaded },
        last_poll_time: report.last_poll.map(to_second).or_else(|| previous.last_poll_time.clone()),
        last_success_time: report.last_success.map(to_second).or_else(|| previous.last_success_time.clone()),
        last_event_time: report.last_event.map(to_second).or_else(|| previous.last_event_time.clone()),
        next_poll_time: report
            .next_poll
            .filter(|next| !view.leaving && next.duration_since(now) > NEXT_POLL_WORTH_TELLING)
            .map(to_second),
        lag_seconds: lag(view, &conditions, previous, now, moment).and_then(|lag| lag.as_secs().try_into().ok()),
        consecutive_failures: Some(i32::try_from(report.consecutive_failures).unwrap_or(i32::MAX)),
        sample_time: Some(to_second(now)),
        last_handled_poll_request: report
            .handled_poll_request
            .clone()
            .or_else(|| previous.last_handled_poll_request.clone()),
        conditions,
    }
}

/// What the holder knows, with what flaps held still.
fn facts(view: &View) -> Facts<'_> {
    let known = view.report.facts();
    Facts {
        poll: view.source.as_ref().map(|source| &source.spec.poll),
        assigned: if view.leaving { Some((AssignedReason::AwaitingReplica, LEFT)) } else { known.assigned },
        reachable: view.reachable().map(|verdict| (verdict.reason, &*verdict.message)),
        caught_up: view.caught_up,
        shares_endpoint_with: view.source.as_ref().and_then(|source| source.shares_endpoint_with.as_ref()),
        ..known
    }
}

/// Whether writing `new` would tell nobody anything: only the time of the sample would move.
pub(super) fn says_the_same(new: &EventSourceStatus, old: &EventSourceStatus) -> bool {
    let timeless =
        |status: &EventSourceStatus| EventSourceStatus { sample_time: None, lag_seconds: None, ..status.clone() };
    timeless(new) == timeless(old)
}

/// The lag that goes with these conditions; the holder before may have been the one who knew.
fn lag(
    view: &View,
    conditions: &[Condition],
    previous: &EventSourceStatus,
    now: Timestamp,
    moment: Moment,
) -> Option<Duration> {
    let is_caught_up = conditions.iter().any(|condition| condition.type_ == READY && condition.reason == CAUGHT_UP);
    let until_it_moved = || Some(between(well_until(previous, view.report.holding.acquired_at)?, now));
    view.report.lag(is_caught_up, moment, || behind_for(previous, now).or_else(until_it_moved))
}

/// A source that is well is written seldom, and its holder knew that it was until it gave it away. Unless nobody had it meanwhile:
/// then all that is known is the status.
fn well_until(previous: &EventSourceStatus, moved: Timestamp) -> Option<Timestamp> {
    let sampled = previous.sample_time.as_ref().filter(|_| previous.lag_seconds == Some(0))?.0;
    Some(if moved.duration_since(sampled) <= WRITTEN_WITHIN { moved } else { sampled })
}

/// How long ago the source of this status, which is behind, was last known to hold nothing more: another replica wrote it by its
/// own clock, so it is asked once, and counted on by ours.
pub(super) fn behind_for(status: &EventSourceStatus, now: Timestamp) -> Option<Duration> {
    let lag = status.lag_seconds.and_then(|lag| u64::try_from(lag).ok()).filter(|lag| *lag > 0)?;
    Some(Duration::from_secs(lag) + between(status.sample_time.as_ref()?.0, now))
}

/// Nothing, when the clocks of two machines, or of one that was set, put it the other way round.
fn between(earlier: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(earlier).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests;

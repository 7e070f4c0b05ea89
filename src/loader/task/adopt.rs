use std::time::Duration;

use tokio::select;
use tracing::info;

use super::{Ended, SourceTask};
use crate::{
    api::{AcceptedReason, StoredReason},
    backoff::Backoff,
    loader::{context::LOCKED_RETRY, report::BlockedBy, row_lock::RowLock, settings::Settings},
    ownership::Renewal,
    store::{Adopt, Adopted, Answer, Reset, StoreError},
};

/// Between two tries to adopt a row while the database is away.
const ADOPT_RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

impl SourceTask {
    /// ADOPT, and RESET when the epoch grew. Waits as long as the row may not be polled.
    pub(super) async fn adopt(&mut self, settings: &Settings) -> Result<Adopted, Ended> {
        self.be_confirmed().await?;
        let (mut retry, mut lock) = (ADOPT_RETRY.waits(), RowLock::default());
        let adopted = loop {
            match self.adopt_once(settings).await {
                Ok(Answer::Applied(adopted)) => break adopted,
                Ok(Answer::Locked) => {
                    lock.met(&self.context.reporter);
                    self.pause(lock.retry_in()).await?;
                }
                Ok(Answer::Refused(_)) => self.be_sure_of_the_lease().await?,
                Err(error) => {
                    self.context.reporter.database_unavailable(&error);
                    self.back_off(&mut retry).await?;
                }
            }
        };
        let reporter = &self.context.reporter;
        reporter.database_answers();
        info!(stream = %self.context.stream, fence = adopted.fence.0, cursor = %adopted.cursor, "adopted");
        if adopted.id_path != settings.id_path {
            // With a cursor in its status, an object may not go back to its former path.
            reporter.tell(|report| report.cursor = None);
            reporter.not_accepted(AcceptedReason::InvalidSpec, &read_from_elsewhere(&adopted.id_path));
            return Err(self.wait_for_change().await);
        }
        let message = if adopted.start_ignored {
            format!("goes on from cursor {} of an earlier object of this name: `start` was not applied", adopted.cursor)
        } else {
            "accepted".to_owned()
        };
        reporter.accepted(message);
        reporter.tell(|report| {
            report.epoch = Some(adopted.epoch);
            report.cursor = Some(adopted.cursor.clone());
            report.events_stored = adopted.events_stored;
        });
        Ok(adopted)
    }

    async fn adopt_once(&self, settings: &Settings) -> Result<Answer<Adopted>, StoreError> {
        let (stream, uid, holder) = (&self.context.stream, &self.running.uid, &self.context.holder);
        let adopt = Adopt {
            stream: stream.clone(),
            uid: uid.clone(),
            holder: holder.clone(),
            epoch: settings.epoch,
            start: settings.start.clone(),
            id_path: settings.id_path.clone(),
            in_doubt: !*self.context.lease.borrow(),
        };
        let answer = self.context.store().adopt(adopt).await?;
        let Answer::Applied(adopted) = answer else { return Ok(answer) };
        if settings.epoch <= adopted.epoch {
            return Ok(Answer::Applied(adopted));
        }
        info!(stream = %stream, from = adopted.epoch.0, to = settings.epoch.0, "epoch grew: begins again at its start");
        let reset = Reset {
            stream: stream.clone(),
            uid: uid.clone(),
            holder: holder.clone(),
            fence: adopted.fence,
            epoch: settings.epoch,
            start: settings.start.clone(),
            id_path: settings.id_path.clone(),
        };
        // Before the answer, which may be lost: then the next ADOPT finds the epoch grown.
        self.context.guard().forget_disorder();
        self.context.store().reset(reset).await
    }

    /// Who has offered the source to another replica and got no answer goes on as long as no other one has adopted it.
    /// After that it would take the source from its holder: the Lease, which is being taken back, says whose it is.
    async fn be_sure_of_the_lease(&mut self) -> Result<(), Ended> {
        let mut lease = self.context.lease.clone();
        if *lease.borrow_and_update() {
            // Confirmed since it was asked; or RESET was refused.
            return self.pause(LOCKED_RETRY).await;
        }
        self.context.reporter.blocked_by(Some(BlockedBy::Lease));
        select! {
            biased;
            ended = self.wait_for_change() => Err(ended),
            Ok(_) = lease.wait_for(|is_ours| *is_ours) => Ok(()),
        }
    }

    /// Adopting raises the fence, so whoever was fenced off may only do it again as the rightful holder: after a renewal of
    /// its member Lease that was issued since. If the Lease was lost, ownership says so and stops the task. Nobody else
    /// waits for that, so an API server that is away stops no source that is held (P5).
    async fn be_confirmed(&mut self) -> Result<(), Ended> {
        let Some(fenced_off) = self.fenced_off else { return Ok(()) };
        self.context.reporter.blocked_by(Some(BlockedBy::Lease));
        let message =
            "another replica has taken the row over; this one takes it back only after it has renewed its member Lease";
        self.context.reporter.not_stored(StoredReason::FencedOff, message);
        let mut renewals = self.context.shared.ownership.renewals();
        let holder = self.context.holder.clone();
        let confirmed = async move {
            let confirms = |renewal: &Renewal| renewal.holder == holder && renewal.issued > fenced_off;
            if renewals.wait_for(|renewal| renewal.as_ref().is_some_and(confirms)).await.is_err() {
                // Ownership has ended, and so will this task.
                std::future::pending::<()>().await;
            }
        };
        select! {
            biased;
            ended = self.wait_for_change() => return Err(ended),
            () = confirmed => {}
        }
        self.fenced_off = None;
        Ok(())
    }
}

fn read_from_elsewhere(former: &str) -> String {
    format!(
        "spec.mapping.idPath is not that of the stream, whose cursor is an id read from `{former}`, from an earlier object of this \
         name: increase `epoch` to begin again at `start`, or give `idPath` its former value"
    )
}

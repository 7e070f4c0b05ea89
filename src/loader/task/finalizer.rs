use tokio::select;

use super::{Ended, SourceTask, Wake};

impl SourceTask {
    /// Waits until a deletion cannot leave behind what the object is to take along. A source that was polled already, by this
    /// replica or another, does not wait: its policy may have turned to Delete while the API server takes no finalizer, and that
    /// stops nothing (P5).
    pub(super) async fn await_finalizer(&mut self) -> Result<(), Ended> {
        if !self.lacks_finalizer() {
            return Ok(());
        }
        self.won = None;
        self.context.reporter.awaits_finalizer();
        while self.lacks_finalizer() {
            select! {
                biased;
                () = self.stop.cancelled() => return Err(Ended::Stopped),
                changed = self.sources.changed() => match changed.map(|()| self.look()) {
                    Ok(Some(Wake::Ended(ended))) => return Err(ended),
                    Ok(_) => {}
                    Err(_) => return Err(Ended::Stopped),
                },
            }
        }
        self.context.reporter.tell(|report| {
            report.accepted = None;
            report.blocked_by = None;
        });
        Ok(())
    }

    fn lacks_finalizer(&self) -> bool {
        let source = &self.running;
        // What this task did may not stand in the status yet.
        let was_polled = source.was_polled || self.polled.as_ref() == Some(&source.uid);
        !source.spec.suspend && source.lacks_finalizer() && !was_polled
    }
}

use tokio::select;

use super::{SourceTask, Wake};

impl SourceTask {
    /// Waits until a deletion cannot leave behind what the object is to take along. A source that is polled already does not
    /// wait: its policy may turn to Delete while the API server takes no finalizer, and that stops nothing (P5).
    pub(super) async fn await_finalizer(&mut self) -> Result<(), Wake> {
        if !self.lacks_finalizer() {
            return Ok(());
        }
        self.won = None;
        self.context.reporter.awaits_finalizer();
        while self.lacks_finalizer() {
            select! {
                biased;
                () = self.stop.cancelled() => return Err(Wake::Stopped),
                changed = self.sources.changed() => match changed.map(|()| self.look()) {
                    Ok(None | Some(Wake::PollNow)) => {}
                    Ok(Some(wake)) => return Err(wake),
                    Err(_) => return Err(Wake::Stopped),
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
        !source.spec.suspend && source.lacks_finalizer() && self.polled.as_ref() != Some(&source.uid)
    }
}

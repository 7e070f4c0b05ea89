//! One server program of a place: how it is started, and what a test or a person may do to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::account::Account;
use crate::place::Place;
use crate::process::{Process, Signal};

/// How long a server may take to stop by itself before it is ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a server is started, every time in the same way.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) directory: PathBuf,
    pub(crate) account: Option<Account>,
    /// Asks it to finish what it does and to end.
    pub(crate) stop: Signal,
    /// Ends it at once, and its children with it.
    pub(crate) end: Signal,
}

/// A server that can be started, stopped, killed and frozen, again and again.
#[derive(Debug)]
pub struct Server {
    recipe: Recipe,
    // Before the place, so that it has ended when the place is removed.
    process: Option<Process>,
    place: Arc<Place>,
}

impl Server {
    /// The server as it is in this place: running since an earlier run, or not.
    pub(crate) fn in_place(place: &Arc<Place>, recipe: Recipe) -> Self {
        Self { process: place.running(recipe.name), recipe, place: Arc::clone(place) }
    }

    /// Starts it if it does not run. It is not ready for work yet when this returns.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let Recipe { name, program, arguments, directory, account, end, .. } = &self.recipe;
        let launch = self.place.launch(name, program).args(arguments).in_directory(directory);
        self.process = Some(launch.as_account(account.as_ref()).ended_by(*end).start()?);
        Ok(())
    }

    /// Asks it to end, and waits for that.
    pub async fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop(self.recipe.stop, PATIENCE).await,
            None => Ok(()),
        }
    }

    /// Kills it (`kill -9`).
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Freezes it: it keeps its connections and answers nothing.
    pub fn pause(&self) -> Result<()> {
        self.process()?.pause()
    }

    /// Lets a frozen one go on.
    pub fn resume(&self) -> Result<()> {
        self.process()?.resume()
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_running)
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().filter(|process| process.is_running()).map(Process::id)
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.place.path().join(format!("{}.log", self.recipe.name))
    }

    /// The program that it runs.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.recipe.program
    }

    pub(crate) fn process(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("find {}: it was not started", self.recipe.name))
    }
}

//! Why no connection is made. The pool swallows what is said by a server that is full, starting or not there, and tries again
//! until its time is over; whoever is paged then needs to hear what was said.

use std::{sync::Arc, time::Duration};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::telemetry::cause::in_one_line;

/// How long one connection is waited for, by those who have waited for one already.
const WITHIN: Duration = Duration::from_secs(1);

/// How long an answer is good for: thousands of sources find no connection at once.
const GOOD_FOR: Duration = Duration::from_secs(5);

/// What was last said to a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusal(Arc<Mutex<Option<Asked>>>);

#[derive(Debug)]
struct Asked {
    at: Instant,
    said: Option<String>,
}

impl Refusal {
    /// What keeps a connection from being made; none when one is made after all, or when there is no word of it either.
    pub(super) async fn of(&self, options: &PgConnectOptions) -> Option<String> {
        // One asks, the others wait for what it hears.
        let mut asked = self.0.lock().await;
        if let Some(asked) = asked.as_ref().filter(|asked| asked.at.elapsed() < GOOD_FOR) {
            return asked.said.clone();
        }
        let said = match timeout(WITHIN, PgConnection::connect_with(options)).await {
            Ok(Ok(connection)) => {
                let _ = timeout(WITHIN, connection.close()).await;
                None
            }
            Ok(Err(sqlx::Error::Database(error))) => Some(error.message().to_owned()),
            Ok(Err(sqlx::Error::Io(error))) => Some(error.to_string()),
            Ok(Err(error)) => Some(in_one_line(&error)),
            Err(_elapsed) => None,
        };
        *asked = Some(Asked { at: Instant::now(), said: said.clone() });
        said
    }
}

//! Probes, metrics and `/v1/sources` on one plain HTTP port (DESIGN 8). Nothing here holds a secret or a payload.

mod held;
mod port;
mod sources;
mod waits;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    registry::Registry,
};
use serde_json::json;
use tokio::net::TcpListener;

pub use sources::{SourceView, Sources};

use crate::{clock::Moment, telemetry::health::Health};

/// What the endpoints read.
#[derive(Clone)]
pub struct Admin {
    pub health: Health,
    pub registry: Arc<Registry>,
    pub sources: Sources,
}

impl Admin {
    /// Serves for as long as it is polled.
    pub async fn serve(self, listener: TcpListener) -> Infallible {
        port::serve(listener, self.router()).await
    }

    pub(crate) fn metrics(&self, now: Moment) -> Result<String, std::fmt::Error> {
        let reports = self.sources.reports.all();
        let held = held::series(reports.iter().map(|report| &**report), now);
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &held)?;
        encode_registry(&mut text, &waits::series(&self.health))?;
        encode_eof(&mut text)?;
        Ok(text)
    }

    fn router(self) -> Router {
        Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/v1/sources", get(sources))
            .with_state(self)
    }
}

/// The process answers. It says nothing about the parts: restarting the operator brings no database back.
async fn livez() -> &'static str {
    "ok\n"
}

/// Whether this replica can do its work, and what it waits for.
async fn readyz(State(admin): State<Admin>) -> Response {
    let pending = admin.health.pending();
    let status = if pending.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": pending.is_empty(), "pending": pending }))).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics(Moment::now()) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Debug, serde::Deserialize)]
struct SourcesQuery {
    /// Only the sources that this replica holds.
    #[serde(default)]
    held: bool,
}

async fn sources(State(admin): State<Admin>, Query(query): Query<SourcesQuery>) -> Json<serde_json::Value> {
    Json(json!({ "sources": admin.sources.list(query.held) }))
}

#[cfg(test)]
mod tests;

//! Logs, metrics and health.

pub mod health;
pub mod logs;
pub mod metrics;

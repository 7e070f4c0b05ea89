//! Logs, metrics and health.

pub mod cause;
pub mod health;
pub mod logs;
pub mod metrics;

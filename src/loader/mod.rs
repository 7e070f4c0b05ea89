//! The life of one source: adopt, reserve, send, append, pace. Imports ports only (DESIGN 4).

pub mod report;

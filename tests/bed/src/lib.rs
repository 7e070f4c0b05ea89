//! The test bed of Headgate: real servers, a fake source, and the checker of what it really sent.

pub mod access_log;
pub mod checker;
pub mod clock;
pub mod source;

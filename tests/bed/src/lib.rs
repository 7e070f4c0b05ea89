//! The test bed of Headgate: real servers, a fake source, and the checker of what it really sent.

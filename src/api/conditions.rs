//! Conditions computed from facts. Pure: the caller passes `now` and the old conditions.

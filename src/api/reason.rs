//! The reasons of the conditions. They are API: a reason says what to do, and it is also the metric label.

/// Declares a reason enum whose variants are spelled as the API shows them.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// The reason as it stands in a condition and in metric labels.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// Whether the object itself can be worked with.
    AcceptedReason {
        Valid,
        InvalidSpec,
        SecretNotFound,
        SecretKeyMissing,
        CANotFound,
        /// The operator has no right to read what the object refers to.
        CredentialsForbidden,
        /// The first request waits for the finalizer that keeps a deletion from leaving the events behind.
        FinalizerPending,
    }
}

reasons! {
    /// Whether a replica runs the source.
    AssignedReason {
        LeaseHeld,
        AwaitingReplica,
        LeaseLost,
    }
}

reasons! {
    /// Whether the source answers usefully.
    ReachableReason {
        PollSucceeded,
        AuthenticationFailed,
        Forbidden,
        RateLimited,
        Redirected,
        ServerError,
        ConnectionFailed,
        /// The name leads to an address that the operator does not connect to.
        AddressRefused,
        Timeout,
        TLSFailed,
        ResponseTooLarge,
        DecodeFailed,
        MappingFailed,
        CursorRejected,
        /// A defect of the operator: the task of this source panicked.
        InternalError,
    }
}

reasons! {
    /// Whether events reach the store.
    StoredReason {
        AppendSucceeded,
        DatabaseUnavailable,
        /// The same id came with other content; the stored one stays.
        ConflictingEvent,
        /// A newer holder has adopted the row.
        FencedOff,
    }
}

reasons! {
    /// Whether the source had nothing more when last asked.
    CaughtUpReason {
        NoMoreEvents,
        Backfilling,
    }
}

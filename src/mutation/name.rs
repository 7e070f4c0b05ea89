use super::Mutation;

/// There is no such mutation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no mutation; there are: {known}", known = Mutation::ALL.map(Mutation::name).join(", "))]
pub struct Unknown(String);

impl Mutation {
    pub const ALL: [Self; 6] = [
        Self::DropTheDeadline,
        Self::AnchorAtTheGrant,
        Self::CommitWithoutAttempt,
        Self::AbortFreesTheRow,
        Self::LeaseAlone,
        Self::WholeBodies,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DropTheDeadline => "drop-the-deadline",
            Self::AnchorAtTheGrant => "anchor-at-the-grant",
            Self::CommitWithoutAttempt => "commit-without-attempt",
            Self::AbortFreesTheRow => "abort-frees-the-row",
            Self::LeaseAlone => "lease-alone",
            Self::WholeBodies => "whole-bodies",
        }
    }

    /// # Errors
    /// When no mutation has this name.
    pub fn named(name: &str) -> Result<Self, Unknown> {
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| Unknown(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_mutation_is_answered_with_the_known_ones() {
        assert_eq!(Mutation::named("lease-alone"), Ok(Mutation::LeaseAlone));
        let told = Mutation::named("lease").unwrap_err().to_string();
        assert!(
            told.starts_with("'lease' is no mutation; there are: drop-the-deadline, anchor-at-the-grant, "),
            "{told}"
        );
    }
}

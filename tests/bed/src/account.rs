//! Another account of this machine, for servers that refuse to run as root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::geteuid;

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Account {
    /// The account that a server runs as when this process is root; None when it is not, and the server is simply ours.
    pub fn for_servers() -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| Self::in_passwd(&passwd, name))
            .map(Some)
            .context("find an account other than root: /etc/passwd has neither postgres nor nobody")
    }

    fn in_passwd(passwd: &str, name: &str) -> Option<Self> {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Self { name: name.to_owned(), uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }

    /// Gives a file or directory to this account.
    pub fn own(&self, path: &Path) -> Result<()> {
        chown(path, Some(self.uid), Some(self.gid)).with_context(|| format!("give {} to {}", path.display(), self.name))
    }
}

/// Whether every directory on the way to `path` lets other accounts pass.
#[must_use]
pub fn reachable_by_others(path: &Path) -> bool {
    path.ancestors().all(|directory| fs::metadata(directory).is_ok_and(|meta| meta.mode() & 0o001 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_from_its_own_line() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\npostgresql:x:9:9::/:/bin/sh\npostgres:x:101:104:admin,,,:/var:/bin/sh\n";
        let account = Account::in_passwd(passwd, "postgres").expect("the account is there");
        assert_eq!(account, Account { name: "postgres".into(), uid: 101, gid: 104 });
        assert_eq!(Account::in_passwd(passwd, "nobody"), None);
    }

    #[test]
    fn a_directory_below_a_closed_one_is_not_reachable() {
        use std::os::unix::fs::PermissionsExt;
        let closed = tempfile::tempdir().expect("a directory");
        let below = closed.path().join("below");
        fs::create_dir(&below).expect("a directory below");
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).expect("close it");
        assert!(!reachable_by_others(&below));
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o711)).expect("open it");
        assert_eq!(reachable_by_others(&below), reachable_by_others(&std::env::temp_dir()));
    }
}

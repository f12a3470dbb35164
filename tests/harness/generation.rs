//! Which generation of RabbitMQ and Redis the tests run: this machine's packages, or newer ones in a folder.
//!
//! `tests/broker4` makes a root file system with RabbitMQ 4 and Valkey; the variable [`ROOT_VARIABLE`] names it. The
//! services then run in it, as root, with mounts that end with them.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tempfile::TempDir;

/// The environment variable with the folder of the newer services.
pub const ROOT_VARIABLE: &str = "KSCHAT_TEST_SERVICES";

/// Runs a program in a root file system: `sh -c SCRIPT ROOT PROGRAM [ARGUMENT…]`.
const ENTER_SCRIPT: &str = r#"mount --bind /proc "$0/proc" && mount --bind /dev "$0/dev" && exec chroot "$0" "$@""#;

/// Where the services come from.
pub(crate) struct Generation {
    root: Option<PathBuf>,
}

impl Generation {
    /// The one that the environment selects.
    pub(crate) fn current() -> &'static Self {
        static CURRENT: OnceLock<Generation> = OnceLock::new();
        CURRENT.get_or_init(|| {
            #[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the product")]
            let root = std::env::var_os(ROOT_VARIABLE).map(|root| {
                let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
                workspace.join(root).canonicalize().expect("the folder of the newer services; tests/broker4 makes it")
            });
            Self { root }
        })
    }

    /// Whether these are RabbitMQ 4 and Valkey.
    pub(crate) fn is_newer(&self) -> bool {
        self.root.is_some()
    }

    /// A temporary folder that the services can reach.
    pub(crate) fn folder(&self, prefix: &str) -> TempDir {
        let folder = match &self.root {
            Some(root) => TempDir::with_prefix_in(prefix, root.join("tmp")),
            None => TempDir::with_prefix(prefix),
        };
        folder.expect("a temporary folder")
    }

    /// A path as the services see it.
    pub(crate) fn inside(&self, path: &Path) -> String {
        match &self.root {
            Some(root) => Path::new("/").join(path.strip_prefix(root).expect("a path in the root")),
            None => path.to_owned(),
        }
        .display()
        .to_string()
    }

    /// The words that run a program of the services.
    pub(crate) fn command(&self, program: &str) -> Vec<String> {
        match &self.root {
            Some(root) => {
                let root = root.display().to_string();
                ["unshare", "--mount", "sh", "-c", ENTER_SCRIPT, &root, program].map(str::to_owned).to_vec()
            }
            None => vec![program.to_owned()],
        }
    }
}

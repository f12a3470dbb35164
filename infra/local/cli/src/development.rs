//! Development secrets of this machine's user: generated once, stored in a file that only its owner can read, and
//! shared by all local processes.
//!
//! The file holds one key; all secrets are derived from it, so a new secret needs no other file.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use aws_lc_rs::{hmac, rand};

/// Our folder in the user's configuration directory, and the file in it.
const CONFIG_FOLDER: &str = "kschat";
const KEY_FILE: &str = "development-key";

/// Minimum key length of HS256, in bytes.
///
/// Source: RFC 7518, section 3.2.
const KEY_BYTES: usize = 32;

/// Reason for which no secrets are available.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No configuration directory is known.
    #[error("no configuration directory found for the development key: set HOME, XDG_CONFIG_HOME or JWT_SECRET")]
    NoFolder,
    /// The file can't be read or created.
    #[error("{} cannot be read or created; set JWT_SECRET to run without it", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Other users could have read the file.
    #[error("{} is readable by other users: delete it to generate a new key", .0.display())]
    Exposed(PathBuf),
    /// The file is not a key.
    #[error("{} does not contain a valid key: delete it to generate a new key", .0.display())]
    Malformed(PathBuf),
}

/// The key from which all secrets of one developer are derived.
pub struct DevelopmentKey(hmac::Key);

impl DevelopmentKey {
    /// Reads the key in this configuration directory. The first call generates it.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn of(config_folder: Option<&Path>) -> Result<Self, KeyError> {
        let folder = config_folder.ok_or(KeyError::NoFolder)?.join(CONFIG_FOLDER);
        let path = folder.join(KEY_FILE);
        let failed = |error| KeyError::File(path.clone(), error);
        if !path.try_exists().map_err(failed)? {
            make_folder(&folder)
                .and_then(|()| put(&folder, &path, &format!("{}\n", generate_key()?)))
                .map_err(failed)?;
        }
        // Of two processes that start at once, both use the key that was stored first.
        let text = fs::read_to_string(&path).map_err(failed)?;
        if !is_private(&path).map_err(failed)? {
            return Err(KeyError::Exposed(path));
        }
        let key = text.trim_end();
        if key.len() != 2 * KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(KeyError::Malformed(path));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))
    }

    /// Derives the secret of that name, as 64 hexadecimal digits. Secrets do not reveal one another.
    #[must_use]
    pub fn secret(&self, name: &str) -> String {
        hex(hmac::sign(&self.0, name.as_bytes()).as_ref())
    }
}

fn generate_key() -> io::Result<String> {
    let mut bytes = [0; KEY_BYTES];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("the operating system provides no random numbers"))?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Creates a file that only its owner can read.
fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Stores a text in a file that does not exist yet, atomically.
fn put(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    let beside = folder.join(format!("{KEY_FILE}.{}", generate_key()?));
    let put = write(&beside, text).and_then(|()| match fs::hard_link(&beside, path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    // A leftover is a key that nobody uses.
    let _ = fs::remove_file(&beside);
    put
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = private(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Writes a text with secrets to a file that only its owner can read, and replaces an older one.
///
/// # Errors
/// When the file can't be written.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", generate_key()?));
    let beside = PathBuf::from(beside);
    let written = write(&beside, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // It may not exist.
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(unix)]
fn is_private(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 == 0)
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "other platforms can fail")]
fn is_private(_: &Path) -> io::Result<bool> {
    // Only administrators can read other users' settings here.
    Ok(true)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn secret(folder: &Path, name: &str) -> String {
        DevelopmentKey::of(Some(folder)).unwrap().secret(name)
    }

    #[test]
    fn development_key_is_stable_per_user_and_name() {
        let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let first = secret(one.path(), "JWT_SECRET");
        assert_eq!(first.len(), 64);
        assert_eq!(secret(one.path(), "JWT_SECRET"), first);
        assert_ne!(secret(one.path(), "MESSAGE_ID_KEY"), first);
        assert_ne!(secret(two.path(), "JWT_SECRET"), first);
        let left: Vec<_> = fs::read_dir(one.path().join(CONFIG_FOLDER)).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn concurrent_key_creation_yields_one_key() {
        let folder = TempDir::new().unwrap();
        let secrets: Vec<String> = std::thread::scope(|scope| {
            let drawing: Vec<_> = (0..16).map(|_| scope.spawn(|| secret(folder.path(), "JWT_SECRET"))).collect();
            drawing.into_iter().map(|drawing| drawing.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]), "{secrets:?}");
    }

    #[cfg(unix)]
    #[test]
    fn world_readable_development_key_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = TempDir::new().unwrap();
        secret(folder.path(), "JWT_SECRET");
        let path = folder.path().join(CONFIG_FOLDER).join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(DevelopmentKey::of(Some(folder.path())), Err(KeyError::Exposed(_))));
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&path, "short\n").unwrap();
        assert!(matches!(DevelopmentKey::of(Some(folder.path())), Err(KeyError::Malformed(_))));
    }
}

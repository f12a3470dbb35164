//! Secrets of a developer of this machine: drawn once, kept where nobody else can read them, the same for all that runs
//! here.
//!
//! One key lies in a file; all secrets are derived from it, so a new one needs no other file.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use aws_lc_rs::{hmac, rand};

/// The folder of ours among the settings of a user's programs, and the file in it.
const FOLDER: &str = "kschat";
const FILE: &str = "development-key";

/// As many bytes as HS256 needs at least.
///
/// Source: RFC 7518, section 3.2.
const BYTES: usize = 32;

/// Why there are no secrets.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Nothing says where the user's settings are.
    #[error("there is no folder for a secret of yours: set HOME or XDG_CONFIG_HOME, or JWT_SECRET")]
    NoFolder,
    /// The file can't be read or made.
    #[error("{} can't be read or made; set JWT_SECRET to do without", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Others could have read it.
    #[error("{} can be read by others: delete it, and a new one is made", .0.display())]
    Exposed(PathBuf),
    /// Something else lies there.
    #[error("{} is no key: delete it, and a new one is made", .0.display())]
    Damaged(PathBuf),
}

/// What all secrets of one developer follow from.
pub struct DevelopmentKey(hmac::Key);

impl DevelopmentKey {
    /// The key of whoever has this folder of settings. The first one who asks draws it.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn of(config_folder: Option<&Path>) -> Result<Self, KeyError> {
        let folder = config_folder.ok_or(KeyError::NoFolder)?.join(FOLDER);
        let path = folder.join(FILE);
        let failed = |error| KeyError::File(path.clone(), error);
        if !path.try_exists().map_err(failed)? {
            make_folder(&folder).and_then(|()| put(&folder, &path, &format!("{}\n", draw()?))).map_err(failed)?;
        }
        // Whoever has put it there: of two that start at once, both go on with the key of one.
        let text = fs::read_to_string(&path).map_err(failed)?;
        if !is_private(&path).map_err(failed)? {
            return Err(KeyError::Exposed(path));
        }
        let key = text.trim_end();
        if key.len() != 2 * BYTES || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(KeyError::Damaged(path));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))
    }

    /// The secret of that name, as 64 hexadecimal digits: nothing follows from it for any other.
    #[must_use]
    pub fn secret(&self, name: &str) -> String {
        hex(hmac::sign(&self.0, name.as_bytes()).as_ref())
    }
}

fn draw() -> io::Result<String> {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("no random numbers can be drawn"))?;
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

/// A new file that nobody else can read.
fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Puts a text into a place where there is nothing yet: whole, or not at all.
fn put(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    let beside = folder.join(format!("{FILE}.{}", draw()?));
    let put = write(&beside, text).and_then(|()| match fs::hard_link(&beside, path) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    // If it stays, it is a key that nobody uses.
    let _ = fs::remove_file(&beside);
    put
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = private(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Writes a text with secrets to a file that nobody else can read, in the place of an older one.
///
/// # Errors
/// When that can't be done.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", draw()?));
    let beside = PathBuf::from(beside);
    let written = write(&beside, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // It may not be there.
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
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is something to ask")]
fn is_private(_: &Path) -> io::Result<bool> {
    // Whoever else may read a user's settings is an administrator.
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
    fn development_key_is_drawn_once_and_differs_per_user_and_name() {
        let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let first = secret(one.path(), "JWT_SECRET");
        assert_eq!(first.len(), 64);
        assert_eq!(secret(one.path(), "JWT_SECRET"), first);
        assert_ne!(secret(one.path(), "MESSAGE_ID_KEY"), first);
        assert_ne!(secret(two.path(), "JWT_SECRET"), first);
        let left: Vec<_> = fs::read_dir(one.path().join(FOLDER)).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn development_key_drawn_by_many_at_once_is_one() {
        let folder = TempDir::new().unwrap();
        let secrets: Vec<String> = std::thread::scope(|scope| {
            let drawing: Vec<_> = (0..16).map(|_| scope.spawn(|| secret(folder.path(), "JWT_SECRET"))).collect();
            drawing.into_iter().map(|drawing| drawing.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]), "{secrets:?}");
    }

    #[cfg(unix)]
    #[test]
    fn development_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = TempDir::new().unwrap();
        secret(folder.path(), "JWT_SECRET");
        let path = folder.path().join(FOLDER).join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(DevelopmentKey::of(Some(folder.path())), Err(KeyError::Exposed(_))));
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&path, "short\n").unwrap();
        assert!(matches!(DevelopmentKey::of(Some(folder.path())), Err(KeyError::Damaged(_))));
    }
}

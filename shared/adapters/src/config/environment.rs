//! Environment variables, and the problems found in them.

use std::{collections::HashMap, ffi::OsString, fmt, path::PathBuf, str::FromStr};

/// All problems of a configuration, one per line.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} problem(s):", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

/// Variables, and the problems found so far.
///
/// ```
/// use kschat_adapters::config::{Backends, Environment};
///
/// let variables = [("REDIS_URL", "redis://127.0.0.1:6379"), ("PARTITIONS", "0")];
/// let mut env = Environment::from_variables(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
/// let backends = Backends::read(&mut env);
/// // All problems are reported at once.
/// let error = env.finish(backends).unwrap_err().to_string();
/// assert!(error.contains("AMQP_URL: is not set") && error.contains("PARTITIONS: must be from 1 to 1024"));
/// ```
pub struct Environment {
    variables: HashMap<String, String>,
    problems: Vec<String>,
}

impl Environment {
    /// The variables of this process.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    #[must_use]
    pub fn read() -> Self {
        // No variable of ours has a value that is not text.
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Self::from_variables(std::env::vars_os().filter_map(text))
    }

    /// Given variables, for tests and embedders.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables = variables.into_iter().filter(|(_, value)| is_given(value)).collect();
        Self { variables, problems: Vec::new() }
    }

    /// Overrides a variable by a command-line value.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value.filter(|value| is_given(value)) {
            self.variables.insert(name.to_owned(), value);
        }
    }

    /// Adds a problem.
    pub fn problem(&mut self, name: &str, problem: impl fmt::Display) {
        let problem = format!("{name}: {problem}");
        // Two parts of a process may read the same variable.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The secret with which a developer's machine signs and checks tokens, if one is set.
    #[must_use]
    pub fn local_secret(&self) -> Option<String> {
        self.text("JWT_SECRET").map(str::to_owned)
    }

    /// The folder for a user's program settings on this machine, if there is one.
    ///
    /// Source: XDG Base Directory Specification; on Windows, the known folder of roaming data.
    #[must_use]
    pub fn config_folder(&self) -> Option<PathBuf> {
        let named = |name| self.text(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
        let windows = || named("APPDATA").filter(|_| cfg!(windows));
        let home = || std::env::home_dir().filter(|home| home.is_absolute());
        named("XDG_CONFIG_HOME").or_else(windows).or_else(|| home().map(|home| home.join(".config")))
    }

    /// The settings, unless there were problems.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem.
    pub fn finish<T>(self, settings: Option<T>) -> Result<T, ConfigError> {
        settings.filter(|_| self.problems.is_empty()).ok_or(ConfigError(self.problems))
    }

    /// The value of a variable that is only passed on.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.text(name)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    /// A value that has a default. Its problem is reported without the value, which may be a secret.
    pub(super) fn optional<T: FromStr>(&mut self, name: &str, default: T) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        match self.text(name).map(T::from_str) {
            None => Some(default),
            Some(Ok(value)) => Some(value),
            Some(Err(error)) => {
                self.problem(name, error);
                None
            }
        }
    }

    pub(super) fn required<T: FromStr>(&mut self, name: &str, cure: &str) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        match self.text(name).map(T::from_str) {
            Some(Ok(value)) => Some(value),
            Some(Err(error)) => {
                self.problem(name, error);
                None
            }
            None => {
                self.problem(name, format_args!("is not set; {cure}"));
                None
            }
        }
    }

    pub(super) fn number<T: FromStr + Copy>(&mut self, name: &str, default: T, range: &str) -> Option<T> {
        match self.text(name).map(T::from_str) {
            None => Some(default),
            Some(Ok(value)) => Some(value),
            Some(Err(_)) => {
                let given = self.text(name).unwrap_or_default().to_owned();
                self.problem(name, format_args!("`{given}` is not a whole number {range}"));
                None
            }
        }
    }
}

/// An empty variable counts as unset: templates render absent parameters that way, and an empty secret would be a key
/// that everybody knows.
fn is_given(value: &str) -> bool {
    !value.trim().is_empty()
}

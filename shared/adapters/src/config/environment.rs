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

/// A setting can't be used; the reason is among the problems of the [`Environment`], with which
/// [`Environment::finish`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported;

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
    pub fn problem(&mut self, name: &str, problem: impl fmt::Display) -> Reported {
        let problem = format!("{name}: {problem}");
        // Two parts of a process may read the same variable.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
        Reported
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
    pub fn finish<T>(self, settings: Result<T, Reported>) -> Result<T, ConfigError> {
        settings.ok().filter(|_| self.problems.is_empty()).ok_or(ConfigError(self.problems))
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
    pub(super) fn optional<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, Reported>
    where
        T::Err: fmt::Display,
    {
        let value = self.text(name).map_or(Ok(default), T::from_str);
        value.map_err(|error| self.problem(name, error))
    }

    /// A value without a default; `hint` tells how to set it.
    pub(super) fn required<T: FromStr>(&mut self, name: &str, hint: &str) -> Result<T, Reported>
    where
        T::Err: fmt::Display,
    {
        match self.text(name).map(T::from_str) {
            Some(value) => value.map_err(|error| self.problem(name, error)),
            None => Err(self.problem(name, format_args!("is not set; {hint}"))),
        }
    }

    pub(super) fn number<T: FromStr + Copy>(&mut self, name: &str, default: T, range: &str) -> Result<T, Reported> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let problem = format!("`{text}` is not a whole number {range}");
        text.parse().map_err(|_| self.problem(name, problem))
    }

    /// One of two words.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: [(&str, T); 2], default: T) -> Result<T, Reported> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        let [(first, _), (second, _)] = choices;
        chosen.ok_or_else(|| self.problem(name, format_args!("must be `{first}` or `{second}`")))
    }

    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool, Reported> {
        self.choice(name, [("true", true), ("false", false)], default)
    }
}

/// An empty variable counts as unset: templates render absent parameters that way, and an empty secret would be a key
/// that everybody knows.
fn is_given(value: &str) -> bool {
    !value.trim().is_empty()
}

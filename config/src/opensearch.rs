use tailwater_document::{Field, Form, Mistakes, Section, Shape};
use tailwater_runtime::Secret;

use crate::file::Load;
use crate::scalars::{address, secret};

/// Where the cluster is and who we are there.
#[derive(Clone, Debug)]
pub struct SearchConfig {
    /// `http://host:port` or `https://host:port`, perhaps with a path before all others.
    pub url: String,
    /// User for basic authentication.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
}

/// What the section may hold.
pub static SHAPE: Shape = Shape {
    about: "The cluster of search sinks.",
    fields: &[
        Field::required("url", Form::Text("`http://host:port`"), "the cluster"),
        Field::optional("user", Form::Text("a user"), "user for basic authentication"),
        Field::optional("password", Form::Text("a secret"), "its password"),
        Field::optional("password_file", Form::Text("a file name"), "file that holds the password"),
    ],
};

/// Reads the section. `None` means that mistakes were noted.
pub fn read(
    mut section: Section<'_>,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<SearchConfig> {
    let url = address(&mut section, "url", mistakes);
    let user: Option<String> = section.optional("user", mistakes);
    let password = secret(&mut section, "password", "password_file", load, mistakes);
    if password.is_some() && user.is_none() {
        section.refuse("password", "there is a password and no `user`", mistakes);
    }
    section.finish_as(&SHAPE, mistakes);
    Some(SearchConfig { url: url?, user, password })
}

//! SQL over a connection of ours.

use std::future::{Ready, ready};
use std::io;

use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding as Binding, SslMode as Mode, SslNegotiation};
use tokio_postgres::tls::TlsConnect;

pub use tokio_postgres::Client;

use crate::{CONNECT_WAIT, Error, Socket, Tried, dial, is_standby};
use tailwater_config::PostgresConfig;
use tailwater_config::postgres::{ChannelBinding, Host};

/// Connects to the first host that answers and takes writes. A task drives the connection until the client is dropped;
/// why it broke shows itself in the next query.
pub async fn client(config: &PostgresConfig, application: &str) -> Result<Client, Error> {
    let mut tried = Tried::default();
    for host in config.hosts.iter() {
        match client_at(config, host, application).await {
            Ok(client) => return Ok(client),
            Err(error) => tried.on_failure(error)?,
        }
    }
    Err(tried.at_end(config))
}

async fn client_at(
    config: &PostgresConfig,
    host: &Host,
    application: &str,
) -> Result<Client, Error> {
    let socket = dial(config, host).await?;
    match timeout(CONNECT_WAIT, login(config, host, application, socket)).await {
        Ok(session) => session,
        Err(_) => {
            let (address, seconds) = (config.address_of(host), CONNECT_WAIT.as_secs());
            Err(Error::Silent { address, doing: "logging in", seconds })
        }
    }
}

async fn login(
    config: &PostgresConfig,
    host: &Host,
    application: &str,
    socket: Socket,
) -> Result<Client, Error> {
    let address = config.address_of(host);
    let can_bind = socket.end_point().is_some();
    if config.channel_binding == ChannelBinding::Require && !can_bind {
        return Err(Error::NoBinding { address });
    }
    let mut settings = tokio_postgres::Config::new();
    settings
        .user(&config.user)
        .dbname(&config.database)
        .application_name(application)
        // The socket is encrypted already where it shall be.
        .ssl_mode(Mode::Require)
        .ssl_negotiation(SslNegotiation::Direct)
        .channel_binding(match config.channel_binding {
            ChannelBinding::Prefer => Binding::Prefer,
            ChannelBinding::Require => Binding::Require,
            ChannelBinding::Disable => Binding::Disable,
        });
    if let Some(password) = &config.password {
        settings.password(password.expose());
    }
    let connected = settings.connect_raw(socket, Connected).await;
    let (client, connection) = connected.map_err(|error| failed(error, config, address.clone()))?;
    if connection
        .parameter("in_hot_standby")
        .is_some_and(|value| is_standby("in_hot_standby", value))
    {
        return Err(Error::Standby { address });
    }
    tokio::spawn(async move {
        // Its end shows itself in the next query as well, with more to say.
        let _ = connection.await;
    });
    Ok(client)
}

/// Takes the socket as it is.
struct Connected;

impl TlsConnect<Socket> for Connected {
    type Stream = Socket;
    type Error = io::Error;
    type Future = Ready<io::Result<Socket>>;

    fn connect(self, socket: Socket) -> Self::Future {
        ready(Ok(socket))
    }
}

/// Our own words for a failed login.
fn failed(error: tokio_postgres::Error, config: &PostgresConfig, address: String) -> Error {
    if let Some(refusal) = error.as_db_error() {
        let beside = |before: &str, text: Option<&str>, after: &str| {
            text.map(|text| format!("{before}{text}{after}")).unwrap_or_default()
        };
        let message = refusal.message().to_owned()
            + &beside(" (", refusal.detail(), ")")
            + &beside("; hint: ", refusal.hint(), "");
        return Error::Refused { address, sqlstate: refusal.code().code().to_owned(), message };
    }
    if error.is_closed() {
        return Error::Lost { address, source: io::ErrorKind::UnexpectedEof.into() };
    }
    // Its kinds are not public, its texts are all there is.
    let text = error.to_string();
    match error.into_source().map(|source| source.downcast::<io::Error>()) {
        Some(Ok(source)) if text.starts_with("authentication") => {
            Error::Scram { address, source: *source }
        }
        Some(Ok(source)) => Error::lost(&address, *source),
        Some(Err(source)) => match source.to_string().as_str() {
            "password missing" => Error::NoPassword { address, user: config.user.clone() },
            why if why.contains("channel binding") => Error::NoBinding { address },
            why if why.contains("unsupported authentication") => {
                Error::Method { address, method: why.to_owned() }
            }
            why => Error::Protocol { address, problem: format!("{text}: {why}") },
        },
        None => Error::Protocol { address, problem: text },
    }
}

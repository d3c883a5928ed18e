//! Opens a session: parameters, then the password exchange.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tailwater_config::PostgresConfig;
use tailwater_config::postgres::ChannelBinding as Wanted;
use tailwater_postgres::is_standby;

use super::Error;
use super::connection::{Mode, Wire};

/// What the text of values depends on. A role or a database may have other defaults.
const PINNED: [(&str, &str); 9] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "3"),
    // Money prints the signs of a locale.
    ("lc_monetary", "C"),
    // Names of relations and functions, as `regclass` prints them, say their schema and are quoted where need be.
    ("search_path", "pg_catalog"),
    ("quote_all_identifiers", "off"),
];

/// What a server says of itself when it lets us in.
#[derive(Default)]
pub(super) struct Started {
    /// The database keeps bytes of any encoding or none (`SQL_ASCII`).
    pub(super) has_no_encoding: bool,
}

/// Sends the start-up message, proves who we are and waits until the server takes commands.
pub(super) async fn start(
    wire: &mut Wire,
    config: &PostgresConfig,
    application: &str,
    mode: Mode,
) -> Result<Started, Error> {
    let mut parameters = vec![
        ("user", config.user.as_str()),
        ("database", config.database.as_str()),
        ("application_name", application),
    ];
    parameters.extend(PINNED);
    if mode == Mode::Replication {
        parameters.push(("replication", "database"));
        // A role's time limits are meant for its queries, not for a stream that never ends.
        parameters.push(("statement_timeout", "0"));
        parameters.push(("lock_timeout", "0"));
        parameters.push(("idle_in_transaction_session_timeout", "0"));
    }
    let mut out = BytesMut::new();
    wire.built(frontend::startup_message(parameters, &mut out))?;
    wire.send(&out).await?;
    authenticate(wire, config).await?;
    let mut started = Started::default();
    loop {
        match wire.receive().await? {
            Message::ReadyForQuery(_) => return Ok(started),
            Message::ParameterStatus(body) => {
                let (name, value) = (wire.built(body.name())?, wire.built(body.value())?);
                if is_standby(name, value) {
                    return Err(Error::Standby { address: wire.address.clone() });
                }
                started.has_no_encoding |= name == "server_encoding" && value == "SQL_ASCII";
            }
            Message::BackendKeyData(_) | Message::NoticeResponse(_) => {}
            Message::ErrorResponse(body) => return Err(wire.refused(&body)),
            _ => return Err(wire.protocol("an unexpected message before it was ready")),
        }
    }
}

async fn authenticate(wire: &mut Wire, config: &PostgresConfig) -> Result<(), Error> {
    let address = wire.address.clone();
    let password = || {
        config.password.as_ref().map(|password| password.expose().as_bytes()).ok_or_else(|| {
            Error::NoPassword { address: address.clone(), user: config.user.clone() }
        })
    };
    // Only the exchange bound to the certificate proves that nobody sits in between.
    let unbound = || match config.channel_binding {
        Wanted::Require => Err(Error::NoBinding { address: address.clone() }),
        Wanted::Prefer | Wanted::Disable => Ok(()),
    };
    let mut is_bound = false;
    loop {
        let mut out = BytesMut::new();
        match wire.receive().await? {
            Message::AuthenticationOk if is_bound => return Ok(()),
            Message::AuthenticationOk => return unbound(),
            Message::AuthenticationCleartextPassword => {
                unbound()?;
                wire.built(frontend::password_message(password()?, &mut out))?;
                wire.send(&out).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                unbound()?;
                let hash = md5_hash(config.user.as_bytes(), password()?, body.salt());
                wire.built(frontend::password_message(hash.as_bytes(), &mut out))?;
                wire.send(&out).await?;
            }
            Message::AuthenticationSasl(body) => {
                let (mut plain, mut plus) = (false, false);
                let mut offered = body.mechanisms();
                while let Some(name) = wire.built(offered.next())? {
                    plain |= name == SCRAM_SHA_256;
                    plus |= name == SCRAM_SHA_256_PLUS;
                }
                let end_point =
                    wire.socket.end_point().filter(|_| config.channel_binding != Wanted::Disable);
                let (binding, mechanism) = match end_point {
                    Some(hash) if plus => {
                        is_bound = true;
                        (ChannelBinding::tls_server_end_point(hash.to_owned()), SCRAM_SHA_256_PLUS)
                    }
                    // The server learns that we could have, and notices if somebody hid its offer.
                    Some(_) if plain => (ChannelBinding::unrequested(), SCRAM_SHA_256),
                    None if plain => (ChannelBinding::unsupported(), SCRAM_SHA_256),
                    _ => return Err(wire.method("a SASL mechanism other than SCRAM-SHA-256")),
                };
                if !is_bound {
                    unbound()?;
                }
                scram(wire, password()?, binding, mechanism).await?;
            }
            Message::AuthenticationGss | Message::AuthenticationSspi => {
                return Err(wire.method("GSSAPI or SSPI"));
            }
            Message::AuthenticationKerberosV5 => return Err(wire.method("Kerberos 5")),
            Message::ErrorResponse(body) => return Err(wire.refused(&body)),
            _ => return Err(wire.protocol("an unexpected message while authenticating")),
        }
    }
}

/// Both sides prove that they know the password, and neither sends it.
async fn scram(
    wire: &mut Wire,
    password: &[u8],
    binding: ChannelBinding,
    mechanism: &str,
) -> Result<(), Error> {
    let failed = |wire: &Wire, source| Error::Scram { address: wire.address().to_owned(), source };
    let mut exchange = ScramSha256::new(password, binding);
    let mut out = BytesMut::new();
    wire.built(frontend::sasl_initial_response(mechanism, exchange.message(), &mut out))?;
    wire.send(&out).await?;
    match wire.receive().await? {
        Message::AuthenticationSaslContinue(body) => {
            exchange.update(body.data()).map_err(|source| failed(wire, source))?;
        }
        Message::ErrorResponse(body) => return Err(wire.refused(&body)),
        _ => return Err(wire.protocol("no challenge in the password exchange")),
    }
    out.clear();
    wire.built(frontend::sasl_response(exchange.message(), &mut out))?;
    wire.send(&out).await?;
    match wire.receive().await? {
        Message::AuthenticationSaslFinal(body) => {
            exchange.finish(body.data()).map_err(|source| failed(wire, source))
        }
        Message::ErrorResponse(body) => Err(wire.refused(&body)),
        _ => Err(wire.protocol("no proof in the password exchange")),
    }
}

"""TLS contexts for the services that Headrace calls. Certificates and host names are always checked."""

import ssl

from pydantic import SecretStr

from schemas.errors import SetupError


def client_context(
    prefix: str,
    *,
    cafile: str | None,
    certfile: str | None,
    keyfile: str | None,
    keyfile_password: SecretStr | None = None,
) -> ssl.SSLContext:
    """A context that trusts `cafile`, else the system's authorities, and sends the client certificate, if any.

    Raises SetupError that names the setting (`prefix` and `_CAFILE` …) when a file cannot be used.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=cafile)
    except OSError as error:
        raise SetupError(f"{prefix}_CAFILE={cafile}: {_reason(error)}") from None
    if certfile:
        # Without a password OpenSSL would ask for one on the terminal.
        password = keyfile_password.get_secret_value() if keyfile_password else ""
        try:
            context.load_cert_chain(certfile, keyfile, password)
        except OSError as error:
            raise SetupError(
                f"{prefix}_CERTFILE={certfile}, {prefix}_KEYFILE={keyfile or certfile}: {_reason(error)}"
            ) from None
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a usable PEM file, or the wrong password ({error.reason or error})"
    return error.strerror or str(error)

"""What `mesh.yaml` may say of who may do what: its sections `callers` and `peers`."""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from mesh_wire.section import Count, KeySource, Name, Section

# Signatures by keys that the mesh does not need to keep secret. None that a public key could be mistaken for.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1, max_length=512)]
REFLECTION = "ServerReflectionInfo"  # gRPC's own, by which grpcurl and others ask for the schema


@cache
def rpcs() -> frozenset[str]:
    """Return the names of all RPCs that a caller may be given."""
    from expertmesh.v1 import expert_pb2, inference_pb2, router_pb2  # here: a command line may need none of them

    services = (
        service
        for file in (expert_pb2, inference_pb2, router_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    )
    return frozenset(method.name for service in services for method in service.methods) | {REFLECTION}


def _rpc(name: str) -> str:
    if name not in rpcs():
        raise ValueError(f"no RPC is called {name}; there are {', '.join(sorted(rpcs()))}")
    return name


class Rights(Section):
    """What a caller may do. What is absent is not restricted."""

    experts: tuple[Name, ...] | None = None  # whom it may ask; among them alone its prompts are routed
    rpcs: tuple[Annotated[str, AfterValidator(_rpc)], ...] | None = None  # such as [Generate, Session]
    max_in_flight: Count | None = None  # requests under way at once through a router, each worker an equal share


class KnownCaller(Rights):
    """One caller, and by what it is known: any one of these is enough."""

    name: Name  # as spans and metrics have it
    certificate: Text | None = None  # a name in its certificate: DNS name or URI; the common name, where there is none
    token_sha256: tuple[Hash, ...] = ()  # of its tokens, as `expertmesh token` prints it; two while one follows another
    subject: Text | None = None  # what its JSON Web Tokens name it; absent: `name`


class JwtSection(Section):
    """JSON Web Tokens of an issuer that the mesh trusts."""

    jwks: Path  # the issuer's public keys, a JSON Web Key Set; read again when it changes
    issuer: Text  # what `iss` must be
    audience: Text  # what `aud` must be, or hold
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")  # no other signature is believed
    claim: Text = "sub"  # the one that names the caller
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 30.0  # what the issuer's clock may differ by
    unlisted: Rights | None = None  # what callers may do whom the issuer knows and `known` does not; absent: nothing


class CallerSection(Section):
    """Who may call the router. Without this section, everybody may do everything."""

    known: tuple[KnownCaller, ...] = ()
    jwt: JwtSection | None = None
    anonymous: Rights | None = None  # what those may do who do not say who they are; absent: nothing


class PeerSection(Section):
    """The routers of a mesh, as its experts know them. What they say of their callers is believed."""

    certificates: tuple[Text, ...] = ()  # names in their certificates, as `certificate` of a caller
    token: KeySource | None = None  # a secret that routers send and experts know, at least 32 bytes

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not self.certificates and self.token is None:
            raise ValueError("routers are known by `certificates` or by a `token`")
        return self


Acceptance = Literal["routers", "tickets", "callers", "anybody"]

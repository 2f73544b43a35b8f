"""An issuer of JSON Web Tokens, with its keys in a file."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from mesh_wire.auth.sections import JwtSection

ISSUER, AUDIENCE = "https://issuer.test", "expertmesh"


class Issuer:
    """Signs tokens; `publish` puts its public keys where a mesh reads them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.keys: dict[str, Any] = {"k1": ec.generate_private_key(ec.SECP256R1())}
        self.publish()

    def add(self, kid: str, *, bits: int = 0) -> None:
        """Add a key, of an RSA kind if `bits` are given."""
        self.keys[kid] = rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())

    def publish(self, *kids: str) -> None:
        """Write the public keys, all of them unless some are named."""
        keys = []
        for kid in kids or self.keys:
            public = self.keys[kid].public_key()
            kind: Any = RSAAlgorithm if isinstance(public, rsa.RSAPublicKey) else ECAlgorithm
            keys.append({**kind.to_jwk(public, as_dict=True), "kid": kid, "use": "sig"})
        self.write({"keys": keys})

    def write(self, content: Any) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(content), encoding="utf-8")
        new.replace(self.file)

    def token(
        self, subject: Any = "web", *, kid: str = "k1", algorithm: str = "ES256", lasts_s: float = 300, **claims: Any
    ) -> str:
        """Return a signed token; a claim that is None is left out."""
        all_claims = {"sub": subject, "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + lasts_s, **claims}
        said = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode(said, self.keys[kid], algorithm=algorithm, headers={"kid": kid})

    def section(self, **fields: Any) -> JwtSection:
        return JwtSection(jwks=self.file, issuer=ISSUER, audience=AUDIENCE, **{"leeway_s": 0, **fields})

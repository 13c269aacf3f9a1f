from tests.data.conftest import fresh_catalog  # noqa: F401

"""`python -m expertmesh_client` is the command `expertmesh`."""

from expertmesh_client.cli import main

if __name__ == "__main__":
    main()

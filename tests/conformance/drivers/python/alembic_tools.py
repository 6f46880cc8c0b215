"""Alembic's own commands: `alembic_tools.py CONNINFO FOLDER`. It prints where they got to."""
import sys
from pathlib import Path
from urllib.parse import quote

import psycopg
from alembic import command
from alembic.config import Config

conninfo, folder = sys.argv[1:]
given = psycopg.conninfo.conninfo_to_dict(conninfo)
user, host, port, name = (given.pop(key) for key in ("user", "host", "port", "dbname"))
password = given.pop("password", "")
query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in given.items())
config = Config()
config.set_main_option("script_location", folder + "/scripts")
config.set_main_option("sqlalchemy.url", f"postgresql+psycopg://{user}:{password}@{host}:{port}/{name}?{query}".replace("%", "%%"))
config.config_file_name = folder + "/alembic.ini"
command.init(config, folder + "/scripts")
env = Path(folder, "scripts/env.py")
env.write_text(env.read_text().replace("fileConfig(config.config_file_name)", "pass"))
config.config_file_name = None
for message, up, down in (
    ("one", "op.create_table('alembic_one', sa.Column('id', sa.Integer, primary_key=True), sa.Column('name', sa.String(20), unique=True, comment='x'))", "op.drop_table('alembic_one')"),
    ("two", "op.add_column('alembic_one', sa.Column('at', sa.DateTime, server_default=sa.text('now()'))); op.create_index('by_at', 'alembic_one', ['at']); op.execute(\"insert into alembic_one (name) values ('a') on conflict (name) do nothing\")", "op.drop_column('alembic_one', 'at')"),
):
    made = command.revision(config, message)
    path = Path(made.path)
    text = path.read_text()
    upgrade, downgrade = text.split("def downgrade()")
    path.write_text(upgrade.replace("    pass", "    " + up) + "def downgrade()" + downgrade.replace("    pass", "    " + down))
command.upgrade(config, "head")
command.downgrade(config, "-1")
command.upgrade(config, "head")
command.current(config, verbose=False)

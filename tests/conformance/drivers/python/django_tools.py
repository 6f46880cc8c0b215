"""Django's own tools: `django_tools.py WHAT CONNINFO`. It prints what they found."""
import sys

import django
import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import connection

what, conninfo = sys.argv[1:]
given = psycopg.conninfo.conninfo_to_dict(conninfo)
options = {name: value for name, value in given.items() if name not in ("host", "port", "user", "password", "dbname")}
settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": given["dbname"], "HOST": given["host"],
        "PORT": given["port"], "USER": given["user"], "PASSWORD": given.get("password", ""), "OPTIONS": options,
    }},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
    USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()
if what == "reflect":
    call_command("inspectdb", "--include-views", "--include-partitions")
    with connection.cursor() as cursor:
        look = connection.introspection
        for table in sorted(look.get_table_list(cursor)):
            print(table, look.get_relations(cursor, table.name), look.get_sequences(cursor, table.name))
            print(sorted(look.get_constraints(cursor, table.name).items()))
else:
    call_command("migrate", verbosity=1, no_color=True)
    from django.contrib.auth.models import Group, User
    user = User.objects.create_user("somebody")
    user.groups.add(Group.objects.create(name="all"))
    print(User.objects.filter(groups__name="all").count(), Group.objects.bulk_create([Group(name="b"), Group(name="c")]))
    call_command("showmigrations", no_color=True)
    call_command("flush", interactive=False)

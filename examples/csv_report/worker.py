"""Weekly reports of sales with pandas, from a CSV file or from rows."""
import pandas as pd
from csv_report_pyproc import Column, File, Report, ReporterHandler, Sales, Week, serve


def report(sales: pd.DataFrame) -> Report:
    """Describes the numeric columns and adds up the revenue by week."""
    described = sales[["quantity", "price"]].describe()
    columns = [
        Column(name=name, count=int(values["count"]), mean=values["mean"], deviation=values["std"],
               smallest=values["min"], median=values["50%"], largest=values["max"])
        for name, values in described.items()
    ]
    sales = sales.assign(time=pd.to_datetime(sales["unix_time"], unit="s"), revenue=sales["quantity"] * sales["price"])
    weekly = sales.set_index("time")["revenue"].resample("W-MON", label="left", closed="left").agg(["size", "sum"])
    weeks = [Week(monday=str(monday.date()), sales=int(row["size"]), revenue=row["sum"])
             for monday, row in weekly.iterrows()]
    return Report(rows=len(sales), columns=columns, weeks=weeks)


class Reporter(ReporterHandler):
    """Handles csv_report.Reporter."""

    def report_file(self, request: File, context) -> Report:
        """Reads the file that the path names."""
        return report(pd.read_csv(request.path))

    def report_rows(self, request: Sales, context) -> Report:
        """Takes the rows as they come."""
        rows = [(row.unix_time, row.city, row.article, row.quantity, row.price) for row in request.rows]
        return report(pd.DataFrame(rows, columns=["unix_time", "city", "article", "quantity", "price"]))


if __name__ == "__main__":
    serve(Reporter())

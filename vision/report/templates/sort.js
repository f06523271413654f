document.querySelectorAll("table.sortable th").forEach(function (head) {
  var table = head.closest("table");
  var place = Array.prototype.indexOf.call(head.parentNode.children, head);
  var button = document.createElement("button");
  var falls = false;
  button.type = "button";
  button.textContent = head.textContent.trim();
  button.title = "sort by this column";
  head.textContent = "";
  head.appendChild(button);
  button.addEventListener("click", function () {
    var body = table.tBodies[0];
    var rows = Array.prototype.slice.call(body.rows);
    falls = !falls;
    rows.sort(function (a, b) {
      var x = a.cells[place].dataset.value, y = b.cells[place].dataset.value;
      var p = parseFloat(x), q = parseFloat(y);
      var order = isNaN(p) && isNaN(q) ? String(x).localeCompare(String(y))
        : isNaN(p) ? -Infinity : isNaN(q) ? Infinity : p - q;
      return falls ? -order : order;
    });
    rows.forEach(function (row) { body.appendChild(row); });
    table.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  });
});
